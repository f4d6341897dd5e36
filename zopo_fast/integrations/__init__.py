"""Bridges to other packages of the field, one module each, named after the package it serves."""
