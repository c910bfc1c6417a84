"""Ansible module: have a host balance as an intent file says. Runs on the controller; see the README."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: lbctl
short_description: Kernel load balancing from an intent file
description:
  - Runs lbctl on the controller, which changes a host over ssh. Nothing is installed on that host.
options:
  intent:
    description: Path of the intent file on the controller.
    type: path
    required: true
  host:
    description: Destination of ssh, C([USER@]HOST[:PORT]). Without it the controller itself.
    type: str
  state:
    description: Whether the rules are to be there.
    type: str
    choices: [present, absent]
    default: present
  backend:
    description: Backend, as for C(lbctl apply).
    type: str
  driver:
    description: Driver of the backend.
    type: str
  executable:
    description: lbctl on the controller.
    type: str
    default: lbctl
author:
  - The lbctl authors
"""
EXAMPLES = """
- name: Balance the web service
  lbctl.lbctl.lbctl:
    intent: "{{ playbook_dir }}/lbctl.toml"
    host: "root@{{ inventory_hostname }}"
  delegate_to: localhost
"""
RETURN = """
plan:
  description: The document of C(lbctl plan).
  type: dict
  returned: always
"""


def main() -> None:
    """Plan, and unless in check mode apply."""
    module = AnsibleModule(
        argument_spec={
            "intent": {"type": "path", "required": True},
            "host": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "backend": {"type": "str"},
            "driver": {"type": "str"},
            "executable": {"type": "str", "default": "lbctl"},
        },
        supports_check_mode=True,
    )
    if module.params["state"] == "absent":
        _remove(module)
    planned = _run(module, "plan")
    if planned["changed"] and not module.check_mode:
        _run(module, "apply", "--yes")
    module.exit_json(changed=planned["changed"], plan=planned, diff=_difference([planned]))


def _remove(module: AnsibleModule) -> None:
    """Remove what is there; in check mode, say that no question can be asked, which changes nothing."""
    # Without --yes, and without a terminal, lbctl shows what it would remove and then refuses.
    words = () if module.check_mode else ("--yes",)
    done = _run(module, "remove", *words, allowed=(0, 2) if module.check_mode else (0,))
    plans = done.get("plans", [])
    changed = bool(done.get("changed", module.check_mode))
    module.exit_json(changed=changed, plan=done, diff=_difference(plans))


def _difference(plans: list[dict]) -> dict[str, str]:
    return {side: "".join(plan["rules"][side] for plan in plans) for side in ("before", "after")}


def _run(module: AnsibleModule, *words: str, allowed: tuple[int, ...] = (0,)) -> dict:
    """Return the document of a command; ends the module if it fails."""
    given = module.params
    argv = [given["executable"], *words, "--output=json", f"--config={given['intent']}"]
    argv += [f"--{name}={given[name]}" for name in ("host", "backend", "driver") if given[name]]
    code, out, err = module.run_command(argv)
    try:
        document = json.loads(out)
    except ValueError:
        document = {}
    if code not in allowed:
        error = document.get("error", {})
        module.fail_json(msg=error.get("message") or err.strip(), rc=code, hint=error.get("hint"), stderr=err)
    return document


if __name__ == "__main__":
    main()
