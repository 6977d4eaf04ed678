//! Parent proxies for the tests: they record what they were told, and answer what the test wants.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::config::{Credentials, ParentProtocol, ParentSettings};
use crate::domain::{Host, HostPattern};

/// What a proxy answers to the requests that it gets, in turn; the last for all that follow.
#[derive(Clone)]
pub(super) enum Answer {
    /// To CONNECT: these bytes, and then a tunnel to the port that was named, on loopback.
    Tunnel(&'static [u8]),
    /// These bytes, and then nothing more is said.
    Bytes(Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// To SOCKS: this reply; a tunnel if it is 0.
    Reply(u8),
}

pub(super) const ESTABLISHED: Answer = Answer::Tunnel(b"HTTP/1.1 200 Connection established\r\n\r\n");

/// A proxy on loopback.
pub(super) struct Proxy {
    pub(super) port: u16,
    told: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// An HTTP proxy.
    pub(super) async fn http(answers: Vec<Answer>) -> Self {
        Self::start(answers, None, Kind::Http).await
    }

    /// The same over TLS.
    pub(super) async fn https(answers: Vec<Answer>, acceptor: TlsAcceptor) -> Self {
        Self::start(answers, Some(acceptor), Kind::Http).await
    }

    /// A SOCKS5 proxy; with `user:password` if it wants a credential.
    pub(super) async fn socks(answers: Vec<Answer>, wants: Option<&'static str>) -> Self {
        Self::start(answers, None, Kind::Socks(wants)).await
    }

    async fn start(answers: Vec<Answer>, acceptor: Option<TlsAcceptor>, kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let ours = told.clone();
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answers[turn.min(answers.len() - 1)].clone();
                turn += 1;
                let (acceptor, told) = (acceptor.clone(), ours.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, kind, answer, &told).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve(stream, kind, answer, &told).await,
                            Err(_) => told.lock().unwrap().push("no handshake".to_owned()),
                        },
                    }
                });
            }
        });
        Self { port, told }
    }

    /// Every request head, or what SOCKS was asked for.
    pub(super) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// As a parent for everything, with the credential `me:s3cret`.
    pub(super) fn parent(&self, protocol: ParentProtocol, no_proxy: &[&str]) -> ParentSettings {
        let secret = |text: &str| Zeroizing::new(text.to_owned());
        ParentSettings {
            protocol,
            host: Host::parse("localhost").unwrap(),
            port: self.port,
            credentials: Some(Credentials::new(secret("me"), secret("s3cret"))),
            origins: None,
            no_proxy: no_proxy.iter().map(|text| HostPattern::parse_no_proxy(text).unwrap()).collect(),
            ca: None,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Socks(Option<&'static str>),
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, kind: Kind, answer: Answer, told: &Mutex<Vec<String>>) {
    let port = match kind {
        Kind::Http => head(&mut stream, told).await,
        Kind::Socks(wants) => match greeting(&mut stream, wants, told).await {
            Ok(port) => port,
            Err(_) => return,
        },
    };
    match answer {
        Answer::Tunnel(bytes) => {
            stream.write_all(bytes).await.unwrap();
            tunnel(stream, port).await;
        }
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            // Until the other side has gone.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        Answer::Silence => {
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        Answer::Reply(code) => {
            // Bound to a name, which has the longest form (RFC 1928 section 6).
            let _ = stream.write_all(&[5, code, 0, 3, 3, b'a', b'.', b'b', 0, 80]).await;
            if code == 0 {
                tunnel(stream, port).await;
            }
        }
    }
}

async fn tunnel(mut stream: impl AsyncRead + AsyncWrite + Unpin, port: u16) {
    if let Ok(mut origin) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = copy_bidirectional(&mut stream, &mut origin).await;
    }
}

/// Reads a request's head; the port that it names.
async fn head(stream: &mut (impl AsyncRead + Unpin), told: &Mutex<Vec<String>>) -> u16 {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return 0 };
        text.push(char::from(byte));
    }
    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
    told.lock().unwrap().push(text);
    target.rsplit(':').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// RFC 1928 sections 3 to 5 and RFC 1929, to the request; the port that it names.
async fn greeting(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    wants: Option<&str>,
    told: &Mutex<Vec<String>>,
) -> std::io::Result<u16> {
    assert_eq!(stream.read_u8().await?, 5);
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    if let Some(wants) = wants {
        if !methods.contains(&2) {
            stream.write_all(&[5, 0xff]).await?;
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        stream.write_all(&[5, 2]).await?;
        assert_eq!(stream.read_u8().await?, 1);
        let shown = format!("{}:{}", field(stream).await?, field(stream).await?);
        let refused = u8::from(shown != wants);
        stream.write_all(&[1, refused]).await?;
        if refused != 0 {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
    } else {
        stream.write_all(&[5, 0]).await?;
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from(stream.read_u32().await?).to_string(),
        3 => format!("name {}", field(stream).await?),
        4 => std::net::Ipv6Addr::from(stream.read_u128().await?).to_string(),
        other => panic!("address type {other}"),
    };
    let port = stream.read_u16().await?;
    told.lock().unwrap().push(format!("{host} {port}"));
    Ok(port)
}

async fn field(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8(bytes).unwrap())
}
