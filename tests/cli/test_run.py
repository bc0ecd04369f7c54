"""What running a server makes of the settings."""

from pathlib import Path

import pytest

from tests.support import settings
from trio_fcgimail.cli.run import with_own_php
from trio_fcgimail.config import UnixAddress
from trio_fcgimail.server.php import PhpKind


@pytest.mark.parametrize(("kind", "means_unexecuted"), [(PhpKind.FPM, True), (PhpKind.CGI, False)])
def test_a_php_of_our_own_is_the_upstream_and_what_is_known_of_it_holds(kind: PhpKind, means_unexecuted: bool) -> None:
    fastcgi = with_own_php(settings(), Path("/tmp/s"), kind).fastcgi
    assert fastcgi.upstreams == (UnixAddress("/tmp/s"),)
    assert fastcgi.clean_eof_means_unexecuted is means_unexecuted
