"""Renders the report document of an audit or a reproduction; stands on core alone and never imports torch.

Public modules, imported where they are used so that starting the command line stays quick:
`schema` (the document and its check), `pictures` (pixels to data URIs), `html`, `text` (terminal, Markdown, JUnit,
CSV) and `formats` (the table of all file formats).
"""
