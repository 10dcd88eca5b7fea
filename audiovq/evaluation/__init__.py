"""How good is what was decoded: metrics, the pairs and splits they run on, other codecs on the same speech, reports.

Importing it imports nothing heavy; each metric says which package it needs when it is made.
"""
