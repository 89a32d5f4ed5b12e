//! The https client: the system's certificates (or `$SSL_CERT_FILE`), bounded waiting.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ureq::http::header::HeaderMap;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::Answer;
use crate::config::without_query;
use crate::exit::{Exit, Failure};
use crate::fail;

/// How long each of these may take: resolving, connecting, and waiting for the first line of the
/// answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Asks servers.
pub(super) struct Client {
    agent: ureq::Agent,
}

impl Client {
    /// # Errors
    /// [`Exit::Network`]: this machine trusts no certificate authority at all.
    pub(super) fn new() -> Result<Client> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            fail!(
                Exit::Network,
                "no certificate of an authority is found in /etc/ssl/certs or $SSL_CERT_FILE, so no server can be trusted {}",
                why.join(", ")
            );
        }
        let roots: Vec<_> =
            found.certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::from(roots))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .user_agent(format!("zfs-prefix/{}", crate::VERSION))
            .timeout_resolve(Some(ANSWER))
            .timeout_connect(Some(ANSWER))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build()
            .new_agent();
        Ok(Client { agent })
    }

    /// Sends a GET for `url`. If the file still has this validator, asks only for the bytes from
    /// `from` on.
    ///
    /// # Errors
    /// [`Exit::Network`]: there is no answer, or the server cannot be trusted.
    pub(super) fn get(&self, url: &str, from: u64, validator: Option<&str>) -> Result<Answer> {
        // Compression on the way would change the bytes, and so a range of them.
        let mut request = self.agent.get(url).header("Accept-Encoding", "identity");
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
            if let Some(validator) = validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = request.call().map_err(|e| failure(url, &e))?;
        let headers = response.headers();
        let length = text(headers, "content-length").and_then(|l| l.parse().ok());
        let range = text(headers, "content-range").and_then(range);
        let etag = text(headers, "etag").filter(|tag| tag.starts_with('"'));
        let validator = etag.or(text(headers, "last-modified")).map(str::to_owned);
        let status = response.status().as_u16();
        let body = Box::new(response.into_body().into_with_config().limit(u64::MAX).reader());
        Ok(Answer { status, range, length, validator, body })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// START and TOTAL of `bytes START-END/TOTAL` or `bytes */TOTAL` (RFC 9110, 14.4).
fn range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let total = total.parse().ok()?;
    match range.split_once('-') {
        Some((start, _)) => Some((start.parse().ok()?, total)),
        None => Some((total, total)),
    }
}

fn failure(url: &str, error: &ureq::Error) -> anyhow::Error {
    // The error text also names the target of a redirect.
    let shown =
        |word: &str| if word.contains("://") { without_query(word) } else { word.to_owned() };
    let text = error.to_string().split(' ').map(shown).collect::<Vec<_>>().join(" ");
    let url = without_query(url);
    let hint = match () {
        () if text.contains("UnknownIssuer") => {
            ": this machine does not trust the authority of its certificate (/etc/ssl/certs, or $SSL_CERT_FILE)"
        }
        () if text.to_lowercase().contains("expired") => {
            ": its certificate has expired, or this machine's clock is wrong"
        }
        () if text.contains("NotValidForName") || text.contains("not valid for name") => {
            ": its certificate is for another server name"
        }
        () if matches!(error, ureq::Error::RequireHttpsOnly(_)) => {
            ": it leads to http://, where the archive could be replaced on its way"
        }
        () => "",
    };
    anyhow!(Failure::new(Exit::Network, format!("{url}: {text}{hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_says_where_it_begins_and_how_long_the_whole_is() {
        for (text, expected) in [
            ("bytes 10-99/100", Some((10, 100))),
            ("bytes */100", Some((100, 100))),
            ("bytes 10-99/*", None),
            ("lines 1-2/3", None),
            ("bytes x-9/10", None),
            ("", None),
        ] {
            assert_eq!(range(text), expected, "{text:?}");
        }
    }
}
