"""Hold the rooms of this project as one package: ``footfall.flows`` is the folder ``flows``.

The rooms lie at the top of the repository; here is a link to each. So the interpreter, mypy and
an installation find them under one name, and a folder ``flows`` or ``schemas`` of somebody else
is never in their way.
"""
