# Python's own default, /usr/lib/ssl, is the host's and not there: certificates this host trusts, or
# the prefix's own.
import os

for _bundle in (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "@EPREFIX@/etc/ssl/certs/ca-certificates.crt",
):
    if os.access(_bundle, os.R_OK):
        os.environ.setdefault("SSL_CERT_FILE", _bundle)
        break
