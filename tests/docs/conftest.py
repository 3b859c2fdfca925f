"""Tests of the site can import its extensions."""

import sys

from tests.docs.pages import DOCS

sys.path.insert(0, str(DOCS / "_ext"))
