"""`keel drift`: are these texts like those?"""
