"""Small-image networks, and the loading of others by name.

One public file is one architecture; `names` holds the grammar of model names and imports no torch,
`spec` holds what is built, `loading` fetches networks that live elsewhere. Nothing is imported here.
"""
