"""The packages, which setup.cfg cannot tell: the recipes in configs/ go into the package too."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=["vssl_jax*", "data_pipelines*"]), "vssl_jax.configs"],
  package_dir={"vssl_jax.configs": "configs"},
)
