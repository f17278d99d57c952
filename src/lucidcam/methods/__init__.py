"""One file per method or close family; each turns what the engine returns into a raw map.

To add a method, add a file: a frozen dataclass with a docstring that names the paper and the equation, registered by name. Its fields
become
options, command-line flags and widgets; the conformance tests find it by themselves (`docs/add-a-method.md`).
"""
