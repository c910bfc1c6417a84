"""lbctl on the tools and Pythons of other Debian releases, on this machine's kernel: `make matrix`.

    PYTHONPATH=tests python -m matrix [--quick] [RELEASE…]

Packages are unpacked below .matrix/, never installed. What is run there is run in private network namespaces.
"""
