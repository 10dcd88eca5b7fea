"""Packages of the distribution: those under audiovq/, and configs/, which is installed as audiovq/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["audiovq", "audiovq.*"]), "audiovq.configs"],
    package_dir={"audiovq.configs": "configs"},
)
