"""The packages; setup.cfg cannot express that the recipes in configs/ are part of the package."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=["vssl_jax*", "data_pipelines*"]), "vssl_jax.configs"],
  package_dir={"vssl_jax.configs": "configs"},
)
