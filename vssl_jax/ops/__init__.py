"""Numeric building blocks shared by several methods."""
