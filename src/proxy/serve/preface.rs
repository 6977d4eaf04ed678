//! HTTP/2 in the clear with prior knowledge (RFC 9113 section 3.3): known by the first bytes of a connection.
//!
//! A client of HTTP/1.1 waits for nothing: its first bytes tell it apart, and they are handed on as they came.
//! `Upgrade: h2c` is another matter, which RFC 9113 has withdrawn: it is a field of one hop, and dropped as such.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::{Answering, LAST_CALL, Protocol, Serving, h1, h2};
use crate::net::{HangUp, Held, Meter};

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What the first read takes. The space is on the stack: waiting costs no memory.
const FIRST_READ: usize = 2048;

/// Serves a connection that speaks HTTP/1.1 or HTTP/2, as its first bytes say; they have `limits.head_timeout` to come.
pub(in crate::proxy) async fn serve_by_preface<I, H, B>(mut io: I, meter: Arc<Meter>, serving: Arc<Serving>, handle: H)
where
    I: AsyncRead + AsyncWrite + HangUp + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> Answering<B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let mut first = BytesMut::new();
    let protocol = tokio::select! {
        // A beginning of the preface that does not go on is left to HTTP/1.1, which tells its client so.
        told = timeout(serving.limits.head_timeout(), told(&mut io, &mut first)) => told.unwrap_or(Ok(Protocol::Http1)),
        () = serving.last_call(LAST_CALL) => return,
    };
    if first.is_empty() {
        if protocol.is_ok() {
            serving.metrics.client_timeouts.add();
        }
        return;
    }
    let Ok(protocol) = protocol else { return };
    let ahead = first.len();
    let io = Held::new(first.freeze(), io);
    match protocol {
        Protocol::Http1 => h1::serve(io, meter, ahead, serving, handle).await,
        Protocol::Http2 => Box::pin(h2::serve(io, serving, handle)).await,
    }
}

/// Reads until it is told what the client speaks. An end before that is left to whoever parses the rest.
async fn told(io: &mut (impl AsyncRead + Unpin), first: &mut BytesMut) -> io::Result<Protocol> {
    loop {
        let before = first.len();
        poll_fn(|cx| {
            let mut space = [const { MaybeUninit::uninit() }; FIRST_READ];
            let mut space = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut space))?;
            first.extend_from_slice(space.filled());
            std::task::Poll::Ready(io::Result::Ok(()))
        })
        .await?;
        let compared = first.len().min(PREFACE.len());
        if first[..compared] != PREFACE[..compared] || first.len() == before {
            return if first.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Protocol::Http1) };
        }
        if compared == PREFACE.len() {
            return Ok(Protocol::Http2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Response;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::{Limits, LiveLimits};
    use crate::net::Io;

    async fn of(pieces: &[&[u8]]) -> (Option<Protocol>, Vec<u8>) {
        let (mut client, mut near) = duplex(4096);
        let (mut first, mut pieces) = (BytesMut::new(), pieces.iter());
        let told = {
            let mut reading = std::pin::pin!(told(&mut near, &mut first));
            loop {
                if let std::task::Poll::Ready(told) = futures_util::poll!(reading.as_mut()) {
                    break Some(told.expect("the client has not gone"));
                }
                let Some(piece) = pieces.next() else { break None };
                client.write_all(piece).await.unwrap();
            }
        };
        (told, first.to_vec())
    }

    /// Answers with the version that it was asked in.
    fn served(limits: Limits) -> (DuplexStream, Arc<Serving>, tokio::task::JoinHandle<()>) {
        let (client, near) = duplex(4096);
        let (meter, serving) =
            (Meter::new(), Serving::new(LiveLimits::new(&limits), Arc::default(), TaskTracker::new()));
        let handle = |request: Request<Incoming>| -> Answering<Full<Bytes>> {
            let version = format!("{:?}", request.version());
            Box::pin(async move { Response::new(Full::new(version.into())) })
        };
        let io = Io::new(near, meter.clone());
        (client, serving.clone(), tokio::spawn(serve_by_preface(io, meter, serving, handle)))
    }

    #[tokio::test]
    async fn serves_both_on_one_port() {
        let (mut client, _serving, _task) = served(Limits::default());
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("HTTP/1.1"), "{answer}");

        let (client, _serving, _task) = served(Limits::default());
        let (sender, connection) = ::h2::client::handshake(client).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/").version(http::Version::HTTP_2).body(()).unwrap();
        let (response, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().into_body().data().await.unwrap().unwrap(), "HTTP/2.0");
    }

    #[tokio::test]
    async fn tells_a_client_whose_head_does_not_end() {
        for beginning in [&b"PR"[..], b"GET / HTTP/1.1\r\nho"] {
            let (mut client, serving, task) =
                served(Limits { head_timeout: Duration::from_millis(50), ..Limits::default() });
            client.write_all(beginning).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            task.await.unwrap();
            assert_eq!(serving.metrics.client_timeouts.get(), 1);
        }
    }

    #[tokio::test]
    async fn closes_a_silent_connection_in_time_and_at_once_when_draining() {
        let (mut client, serving, task) =
            served(Limits { head_timeout: Duration::from_millis(50), ..Limits::default() });
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        task.await.unwrap();
        assert_eq!(serving.metrics.client_timeouts.get(), 1);
        let (mut client, serving, task) = served(Limits::default());
        serving.drain.cancel();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn tells_the_two_apart_by_as_little_as_it_takes() {
        let h1 = Some(Protocol::Http1);
        assert_eq!(of(&[b"G"]).await, (h1, b"G".to_vec()));
        assert_eq!(of(&[b"P", b"O"]).await, (h1, b"PO".to_vec()));
        assert_eq!(of(&[b"PRI * HTTP/2.0\r\n", b"\r\nX"]).await, (h1, b"PRI * HTTP/2.0\r\n\r\nX".to_vec()));
        assert_eq!(of(&[b"\r\nPRI"]).await, (h1, b"\r\nPRI".to_vec()));
        assert_eq!(of(&[b"PRI * HTTP/1.1\r\n"]).await, (h1, b"PRI * HTTP/1.1\r\n".to_vec()));
        assert_eq!(of(&[&PREFACE[..10]]).await, (None, PREFACE[..10].to_vec()));
        let more = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(of(&[&more]).await, (Some(Protocol::Http2), more.clone()));
        assert_eq!(of(&[&more[..3], &more[3..]]).await, (Some(Protocol::Http2), more));
    }

    #[tokio::test]
    async fn leaves_a_client_that_ends_in_the_middle_to_the_parser() {
        let (mut client, mut near) = duplex(64);
        client.write_all(b"PR").await.unwrap();
        drop(client);
        let mut first = BytesMut::new();
        assert_eq!(told(&mut near, &mut first).await.unwrap(), Protocol::Http1);
        let (client, mut near) = duplex(64);
        drop(client);
        assert!(told(&mut near, &mut BytesMut::new()).await.is_err());
    }
}
