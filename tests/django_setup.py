"""Sets Django up once for this process; models can be declared after it is imported."""

from __future__ import annotations

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=[],
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "unused"}},
    )
    django.setup()
