"""The configuration of go-guerrilla and MailDiranasaurus, made into ours.

Their file is JSON. It becomes a document of ours, the same that a TOML file would be, so that a setting means one
thing however it was written, and `convert` only has to write that document down. docs/migrating.md says what becomes
of each key.
"""

from trio_fcgimail.config.guerrilla.translation import Translation, translate

__all__ = ["Translation", "translate"]
