"""TLS toward upstreams: certificates and host names are always verified."""

from __future__ import annotations

import ssl

from mainstay.core.errors import UpstreamFailed


class TrustStores:
    """One client context per certificate authority file, made when first needed and kept."""

    def __init__(self) -> None:
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """Trusts ``ca_file`` alone, or the system's store where it is None. Raises ``UpstreamFailed(connect)``."""
        context = self._contexts.get(ca_file)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                why = error.strerror or type(error).__name__
                raise UpstreamFailed("connect", f"ca_file {ca_file} cannot be used: {why}", sent=False) from None
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[ca_file] = context
        return context
