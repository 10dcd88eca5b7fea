"""Quality of codecs, voice converters, priors, and of image and video models: metrics, baselines, protocols, reports.

Importing it imports nothing heavy; each metric names the package it lacks when it is made.
"""
