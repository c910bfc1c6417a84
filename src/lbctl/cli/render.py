"""`lbctl render`."""

from __future__ import annotations

from lbctl.cli.options import AllowRemap, BackendName, Config, DriverName, Format, Output


def render(
    config: Config = None,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
) -> None:
    """Print the rules that apply would load, for nft -f or iptables-restore --noflush.

    A host without lbctl can load them. Needs no privilege and reads nothing from the kernel's rules.
    """
    from lbctl.cli.output import print_json
    from lbctl.cli.work import read_intent
    from lbctl.engine import compile_for
    from lbctl.host import LocalHost

    intent = read_intent(config)
    name, rules = compile_for(LocalHost(), intent, backend=backend, driver=driver, allow_remap=allow_remap)
    if output is Format.JSON:
        print_json({"backend": name, "rules": rules})
    else:
        print(rules, end="")
