"""The version of Keel."""

VERSION = "0.1.0"
