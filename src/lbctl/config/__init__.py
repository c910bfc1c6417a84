"""Documents in, intents out: the one package that knows the file format.

`load` and its kin read TOML or JSON into `lbctl.model.Intent` and report every mistake with its line;
`dump` writes an intent as tidy TOML; `json_schema` describes the format to editors.

Each is imported when it is asked for: a command that only writes an intent starts without pydantic's models.
"""

from lbctl.lazy import imported_on_use

with imported_on_use(globals()):
    from lbctl.config.documents import is_intent as is_intent
    from lbctl.config.files import (
        find as find,
        find_local as find_local,
        finder as finder,
        unread as unread,
    )
    from lbctl.config.loader import load as load, load_merged as load_merged, loads as loads
    from lbctl.config.render import dump as dump, revive as revive
    from lbctl.config.schema import SCHEMA_ID as SCHEMA_ID, json_schema as json_schema
