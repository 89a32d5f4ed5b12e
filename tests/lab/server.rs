//! A real web server on loopback, with the faults of real ones. It speaks https with a certificate
//! of any kind, or http. It serves files of the test, files of a directory, or git repositories.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]
#![allow(clippy::missing_panics_doc, reason = "each of these is a part of a test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How a server sends a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With ranges and an ETag.
    Well,
    /// Ignores ranges, and always sends the whole file.
    NoRanges,
    /// Closes the connection after so many bytes on the first request. Later requests go well.
    StopsOnce(usize),
    /// Sends nothing more after so many bytes, but keeps the connection open.
    Hangs(usize),
    /// Sends the file again and again, and does not say its size.
    Endless,
    /// Answers with this status and no file.
    Says(u16),
    /// Redirects to an http:// address.
    LeadsToHttp,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The path, with a query.
    pub path: String,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `If-Range`.
    pub if_range: Option<String>,
}

/// The certificate of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Signed by the authority, for localhost.
    Good,
    /// Expired in 2021.
    Expired,
    /// Signed by an authority that is not in `SSL_CERT_FILE`.
    Foreign,
    /// For another host.
    OtherName,
}

/// The served files, and the requests so far.
#[derive(Default)]
struct Served {
    files: Mutex<HashMap<String, (Vec<u8>, Manner)>>,
    /// The directory of all other files.
    directory: Option<PathBuf>,
    /// The directory of the git repositories that are served below `/git/`.
    repositories: Mutex<Option<PathBuf>>,
    asked: Mutex<Vec<Asked>>,
    end: AtomicBool,
}

/// A server. It runs until it is dropped.
pub struct Server {
    /// Its port on 127.0.0.1.
    pub port: u16,
    served: Arc<Served>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.served.end.store(true, Ordering::Relaxed);
        // A connection ends the wait in accept(2). If the server is gone already, that is fine.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Server {
    /// Serves over https. Writes the authority's certificate to `authority`.
    pub fn start(certificate: Certificate, authority: &Path) -> Server {
        let config = Arc::new(configuration(certificate, authority));
        Server::listen(Served::default(), move |stream, served| {
            let connection = ServerConnection::new(config.clone()).unwrap();
            serve(StreamOwned::new(connection, stream), served)
        })
    }

    /// Serves the files of a directory over http: a binhost.
    pub fn of(directory: &Path) -> Server {
        let served = Served { directory: Some(directory.to_owned()), ..Served::default() };
        Server::listen(served, serve)
    }

    fn listen(
        served: Served,
        serve: impl Fn(TcpStream, &Served) -> std::io::Result<()> + Clone + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::new(served);
        let server = Server { port, served: served.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.end.load(Ordering::Relaxed) {
                    return;
                }
                let (served, serve) = (served.clone(), serve.clone());
                // Errors are dropped: in some tests the client gives up.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &served)));
            }
        });
        server
    }

    /// Serves the repositories in this directory as `/git/NAME`, with git's own program.
    pub fn serve_git(&self, directory: &Path) {
        *self.served.repositories.lock().unwrap() = Some(directory.to_owned());
    }

    /// Serves these bytes as `path`.
    pub fn put(&self, path: &str, content: Vec<u8>, manner: Manner) {
        self.served.files.lock().unwrap().insert(path.to_owned(), (content, manner));
    }

    /// The https URL of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.served.asked.lock().unwrap())
    }
}

fn configuration(certificate: Certificate, authority: &Path) -> ServerConfig {
    let issuer = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let ours = issuer("laboratory");
    std::fs::write(authority, ours.pem()).unwrap();
    let name = if certificate == Certificate::OtherName { "example.com" } else { "localhost" };
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if certificate == Certificate::Expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let foreign = issuer("somebody");
    let by = if certificate == Certificate::Foreign { &foreign } else { &ours };
    let signed = params.signed_by(&key, by).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![signed.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap()
}

fn serve(stream: impl Read + Write, served: &Served) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some((request, lines)) = request(&mut stream)? else { return Ok(()) };
        served.asked.lock().unwrap().push(request.clone());
        let root = served.repositories.lock().unwrap().clone();
        if let (Some(root), Some(path)) = (root, request.path.strip_prefix("/git")) {
            git(&mut stream, &root, path, &lines)?;
            continue;
        }
        let file = served.files.lock().unwrap().get(&request.path).cloned();
        let Some((content, manner)) = file.or_else(|| of_directory(served, &request.path)) else {
            head(stream.get_mut(), 404, &[("Content-Length", "0")])?;
            continue;
        };
        if let Manner::StopsOnce(_) = manner {
            let well = (content.clone(), Manner::Well);
            served.files.lock().unwrap().insert(request.path.clone(), well);
        }
        if lines[0].starts_with("HEAD ") {
            head(stream.get_mut(), 200, &[("Content-Length", &content.len().to_string())])?;
        } else if !answer(stream.get_mut(), &request, &content, manner)? {
            return Ok(());
        }
    }
}

fn of_directory(served: &Served, path: &str) -> Option<(Vec<u8>, Manner)> {
    let inside = !path.split('/').any(|part| part == "..");
    let directory = served.directory.as_ref().filter(|_| inside)?;
    let content = std::fs::read(directory.join(path.trim_start_matches('/'))).ok()?;
    Some((content, Manner::Well))
}

/// Answers with git-http-backend(1), a CGI program (RFC 3875).
fn git(
    stream: &mut BufReader<impl Read + Write>,
    root: &Path,
    path: &str,
    lines: &[String],
) -> std::io::Result<()> {
    let length = header(lines, "content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut cgi = Command::new("git");
    cgi.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    cgi.env("PATH_INFO", path).env("QUERY_STRING", query).env("CONTENT_LENGTH", length.to_string());
    cgi.env("REQUEST_METHOD", lines[0].split(' ').next().unwrap());
    for (name, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "HTTP_GIT_PROTOCOL"),
    ] {
        cgi.envs(header(lines, name).map(|value| (variable, value)));
    }
    let mut child = cgi.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
    child.stdin.take().unwrap().write_all(&body).expect("git reads its input");
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").expect("the end of the headers");
    let said = String::from_utf8_lossy(&output[..end]).into_owned();
    let content = &output[end + 4..];
    let status = said.lines().find_map(|l| l.strip_prefix("Status: ")?.get(..3)?.parse().ok());
    let length = content.len().to_string();
    let mut headers: Vec<_> =
        said.lines().filter_map(|l| l.split_once(": ")).filter(|(n, _)| *n != "Status").collect();
    headers.push(("Content-Length", &length));
    head(stream.get_mut(), status.unwrap_or(200), &headers)?;
    stream.get_mut().write_all(content)?;
    stream.get_mut().flush()
}

/// A header of a request.
fn header(lines: &[String], name: &str) -> Option<String> {
    let header = lines.iter().find(|l| l.to_lowercase().starts_with(&format!("{name}: ")))?;
    Some(header.split_once(": ")?.1.to_owned())
}

/// A request, and all its lines.
fn request(stream: &mut impl BufRead) -> std::io::Result<Option<(Asked, Vec<String>)>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    let (range, if_range) = (header(&lines, "range"), header(&lines, "if-range"));
    Ok(Some((Asked { path, range, if_range }, lines)))
}

/// Answers a request. Returns false if the connection is over.
fn answer(
    to: &mut (impl Write + Read),
    request: &Asked,
    content: &[u8],
    manner: Manner,
) -> std::io::Result<bool> {
    let tag = format!(
        "\"{}\"",
        content.iter().fold(7u32, |a, b| a.wrapping_mul(31).wrapping_add(u32::from(*b)))
    );
    match manner {
        Manner::Says(status) => {
            head(to, status, &[("Content-Length", "0")])?;
            return Ok(true);
        }
        Manner::LeadsToHttp => {
            head(to, 302, &[("Location", "http://localhost/x"), ("Content-Length", "0")])?;
            return Ok(true);
        }
        Manner::Endless => {
            head(to, 200, &[("Connection", "close")])?;
            loop {
                to.write_all(content)?;
            }
        }
        _ => {}
    }
    let ranges = manner != Manner::NoRanges;
    let same = request.if_range.as_ref().is_none_or(|given| *given == tag);
    let from = request.range.as_ref().filter(|_| ranges && same).map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let total = content.len();
    match from {
        Some(from) if from >= total => {
            let range = format!("bytes */{total}");
            head(to, 416, &[("Content-Range", &range), ("Content-Length", "0")])?;
            return Ok(true);
        }
        Some(from) => {
            let range = format!("bytes {from}-{}/{total}", total - 1);
            let length = (total - from).to_string();
            head(
                to,
                206,
                &[("Content-Range", &range), ("Content-Length", &length), ("ETag", &tag)],
            )?;
        }
        None => {
            let mut headers = vec![("Content-Length", total.to_string())];
            if ranges {
                headers.push(("ETag", tag));
            }
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            head(to, 200, &headers)?;
        }
    }
    let rest = &content[from.unwrap_or(0)..];
    match manner {
        Manner::StopsOnce(n) | Manner::Hangs(n) => {
            to.write_all(&rest[..n])?;
            to.flush()?;
            if matches!(manner, Manner::Hangs(_)) {
                std::thread::sleep(Duration::from_secs(600));
            }
            Ok(false)
        }
        _ => {
            to.write_all(rest)?;
            to.flush()?;
            Ok(true)
        }
    }
}

fn head(to: &mut impl Write, status: u16, headers: &[(&str, &str)]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} X\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    to.write_all(format!("{text}\r\n").as_bytes())?;
    to.flush()
}
