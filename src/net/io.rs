//! The one IO type under every connection: it counts bytes, notes when something last moved, and
//! fails once its meter was cut. It is also where a framing gate can stand in front of hyper's parser.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Milliseconds of a monotonic clock, for ages and idle times. Asked at every read and write, so it is the coarse one where there is
/// one: some milliseconds late, and a tenth of the cost.
#[must_use]
pub fn ticks() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or_default()
    }
    #[cfg(not(target_os = "linux"))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        u64::try_from(START.get_or_init(std::time::Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is known of one connection's traffic. Shared between the connection and whoever watches it.
#[derive(Debug, Default)]
pub struct Meter {
    read: AtomicU64,
    written: AtomicU64,
    /// Ticks of the last byte in either direction.
    moved: AtomicU64,
    cut: AtomicBool,
}

impl Meter {
    /// A meter that starts now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let meter = Self::default();
        meter.moved.store(ticks(), Ordering::Relaxed);
        Arc::new(meter)
    }

    /// Bytes read from the peer.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written to the peer.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// How long nothing has moved.
    #[must_use]
    pub fn idle(&self) -> std::time::Duration {
        std::time::Duration::from_millis(ticks().saturating_sub(self.moved.load(Ordering::Relaxed)))
    }

    /// Makes every further read and write fail. Whoever cuts also wakes or aborts the task that polls.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by egret"));
        }
        Ok(())
    }

    fn count(&self, counter: &AtomicU64, bytes: usize) {
        // Only this connection's task writes: no read-modify-write is needed.
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
        self.moved.store(ticks(), Ordering::Relaxed);
    }
}

/// A connection that can be ended so that its peer sees it was cut, and not that all was said.
pub trait HangUp {
    /// Makes the close that follows a reset (RFC 9293 section 3.10.7). Nothing can be done about a failure.
    fn hang_up(&self);
}

impl HangUp for tokio::net::TcpStream {
    fn hang_up(&self) {
        let _ = socket2::SockRef::from(self).set_linger(Some(std::time::Duration::ZERO));
    }
}

#[cfg(test)]
impl HangUp for tokio::io::DuplexStream {
    fn hang_up(&self) {}
}

impl<S: HangUp> HangUp for Io<S> {
    fn hang_up(&self) {
        self.inner.hang_up();
    }
}

impl<S: HangUp> HangUp for tokio_rustls::server::TlsStream<S> {
    fn hang_up(&self) {
        self.get_ref().0.hang_up();
    }
}

impl<S: HangUp> HangUp for tokio_rustls::client::TlsStream<S> {
    fn hang_up(&self) {
        self.get_ref().0.hang_up();
    }
}

/// A connection with a [`Meter`].
#[derive(Debug)]
pub struct Io<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S> Io<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    /// Its meter.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// What is inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.meter.check()?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            this.meter.count(&this.meter.read, bytes);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.meter.check()?;
        let polled = Pin::new(&mut this.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = polled {
            this.meter.count(&this.meter.written, bytes);
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.meter.check()?;
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = polled {
            this.meter.count(&this.meter.written, bytes);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
