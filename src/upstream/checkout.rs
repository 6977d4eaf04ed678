//! Getting a connection for one request: from the pool, or a new one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::bucket::{Bucket, Dialling, Place, Spoken, Turn};
use super::connect::{Handshake, Offer};
use super::connection::{self, About, Conn};
use super::multi::{self, Slot};
use super::{Destination, Failure, Upstreams};
use crate::domain::{Code, ProjectId};
use crate::net::Meter;
use crate::observe::Metrics;

/// What a request is sent on.
pub(super) enum Carrier {
    /// An HTTP/1.1 connection, for as long as the exchange lasts.
    One(Conn),
    /// A stream of an HTTP/2 connection.
    Many(Arc<Slot>),
}

impl Carrier {
    pub(super) fn about(&self) -> &Arc<About> {
        match self {
            Self::One(conn) => &conn.about,
            Self::Many(slot) => &slot.multi.about,
        }
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        match self {
            Self::One(conn) => &conn.meter,
            Self::Many(slot) => &slot.multi.meter,
        }
    }
}

pub(super) enum Checkout {
    /// And whether the connection has served another request.
    Ready(Carrier, bool),
    Retired,
}

impl Upstreams {
    /// A connection that is there, of an identity that lives: the pool looks at its life after it has taken one.
    pub(super) fn reuse(&self, bucket: &Bucket) -> Option<(Carrier, bool)> {
        Some(match self.pool.slot(bucket) {
            Some(slot) => {
                let reused = slot.reused;
                (Carrier::Many(Arc::new(slot)), reused)
            }
            None => (Carrier::One(self.pool.pop(bucket)?), true),
        })
    }

    /// A connection: from the pool or new. Ends in time: permits are waited for no longer than a connect may take, and
    /// a connection that another request makes no longer than making one may take; at once when the identity is retired.
    pub(super) async fn checkout(
        &self,
        project: &ProjectId,
        bucket: &Arc<Bucket>,
        pooled: bool,
    ) -> Result<Checkout, Failure> {
        let found = self.while_active(bucket, self.find_or_make(project, bucket, pooled)).await;
        Ok(found?.unwrap_or(Checkout::Retired))
    }

    /// Runs what needs a living identity; `None` once it is retired, whatever had come out. A handshake that is under way is
    /// dropped then and there: the request need not wait for it, and the key need not stay in memory. One that has
    /// failed is no failure any more: another certificate is in force.
    pub(super) async fn while_active<T>(
        &self,
        bucket: &Bucket,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, Failure> {
        let life = bucket.tls.life();
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = life.retired() => return Ok(None),
        };
        // Looked at again: this is the linearisation point of a new connection.
        if life.is_active() { outcome.map(Some) } else { Ok(None) }
    }

    async fn find_or_make(&self, project: &ProjectId, bucket: &Arc<Bucket>, pooled: bool) -> Result<Checkout, Failure> {
        let life = bucket.tls.life();
        let made = Instant::now() + self.longest_dial();
        // Counts from when there was nothing but to wait for a permit.
        let mut busy = None;
        let tried = bucket.tried();
        let mut waiting = None;
        let (place, turn, dialling) = loop {
            if pooled && let Some((carrier, reused)) = self.reuse(bucket) {
                return Ok(Checkout::Ready(carrier, reused));
            }
            if !life.is_active() {
                return Ok(Checkout::Retired);
            }
            // Those who waited for the same connection fail with it; each would only find out for itself.
            if let Some(failure) = bucket.failed_since(tried) {
                return Err(failure);
            }
            let dialling = bucket.may_dial();
            // After a replacement very many want a connection at once. Who gets no turn for a handshake does not queue for
            // one: the first that are made may serve all. Only who cannot use those queues, below.
            let turn = if pooled { bucket.try_turn().map(Some) } else { Some(None) };
            let others_dial = dialling.is_none() || turn.is_none();
            if let (Some(dialling), Some(turn)) = (dialling, turn)
                && let Some(place) = bucket.try_open()
            {
                break (place, turn.map(Turn::begin), dialling.begin());
            }
            let deadline = if others_dial {
                made
            } else {
                *busy.get_or_insert_with(|| Instant::now() + self.pool.limits.connect_timeout())
            };
            // At the cap. One that was given back a moment ago will do, as soon as hyper has it ready.
            if pooled && let Some(mut conn) = self.pool.pop_unready(bucket) {
                if let Ok(Ok(())) = timeout_at(deadline, conn.sender.ready()).await {
                    return Ok(Checkout::Ready(Carrier::One(conn), true));
                }
                continue;
            }
            let Some(turn) = waiting.take() else {
                // Looked once more after that, so that nothing which is freed meanwhile is missed.
                waiting = Some(bucket.wait());
                continue;
            };
            if timeout_at(deadline, turn.freed()).await.is_err() {
                if others_dial {
                    let detail = format!("no connection to {} was ready within {:?}", bucket.to, self.longest_dial());
                    return Err(Failure::new(Code::NetTimeout, detail));
                }
                self.pool.metrics.upstream_connections_full.add();
                return Err(self.full(bucket));
            }
        };
        drop(waiting);
        // Let go of last: who waits looks again when the connection is there, or when it is known why it is not.
        let mut dialling = Some(dialling);
        let before = self.dialer.policy.generation();
        let carrier = self.open(project, bucket, (place, turn), &mut dialling).await.inspect_err(|f| bucket.failed(f));
        drop(dialling);
        let carrier = carrier?;
        if let Some(carrier) = &carrier {
            self.still_permitted(bucket, carrier.about(), before)?;
        }
        if carrier.is_none() && !life.is_active() {
            return Ok(Checkout::Retired);
        }
        // An HTTP/2 origin that takes no stream on a new connection.
        carrier.map(|carrier| Checkout::Ready(carrier, false)).ok_or_else(|| self.full(bucket))
    }

    /// Judges a new connection by the rules that are in force now, which may have changed since the name was judged, or
    /// while it was dialled. Behind a parent it carries this request, whose name is judged again; the next one gets it
    /// only if nothing has changed since `before`, when the address was yet to be judged.
    fn still_permitted(&self, bucket: &Bucket, about: &About, before: u64) -> Result<(), Failure> {
        let generation = self.pool.judge(bucket, about)?;
        about.judged(if bucket.via.is_some() { before } else { generation });
        Ok(())
    }

    fn full(&self, bucket: &Bucket) -> Failure {
        let detail = match bucket.spoken() {
            Spoken::Http2 => format!("{} takes no further request at the moment, on any connection", bucket.to),
            _ => format!("all {} connections to {} are busy", self.pool.limits.max_connections_per_origin(), bucket.to),
        };
        Failure::new(Code::LimitConnections, detail)
            .fix("raise limits.max_connections_per_origin, or send fewer requests at once")
    }

    /// What making a connection may take: its turn, the name, and two attempts (see `Dialer::tls`).
    fn longest_dial(&self) -> Duration {
        let limits = &self.pool.limits;
        limits.connect_timeout() + limits.dns_timeout() + 2 * (limits.connect_timeout() + limits.handshake_timeout())
    }

    /// A new connection; `None` if its identity was retired meanwhile, or if it takes nothing.
    async fn open(
        &self,
        project: &ProjectId,
        bucket: &Arc<Bucket>,
        (place, turn): (Place, Option<Turn>),
        dialling: &mut Option<Dialling>,
    ) -> Result<Option<Carrier>, Failure> {
        let offer = if bucket.is_demoted() { Offer::Http1 } else { Offer::Both };
        let _dial = match turn {
            Some(turn) => turn,
            None => self.dial_permit(bucket).await?,
        };
        let _unless = Thrown::away(bucket, &self.pool.metrics);
        let metrics = &self.pool.metrics;
        let (Destination::Tls(_), Some(_)) = (&bucket.to, &bucket.name) else {
            let (stream, address) = self.reach_plain(project, bucket).await?;
            let about = Arc::new(About::new(address, None, false, None));
            let conn = connection::start(stream, about, bucket, place, metrics, false).await.map_err(unstarted)?;
            return Ok(Some(Carrier::One(conn)));
        };
        let (stream, about, h2) = self.secure(project, bucket, offer).await?;
        if h2 {
            let limits = &self.pool.limits;
            // It is known for how many it is when its SETTINGS have come.
            let place = (place, dialling.take());
            let multi = multi::start(stream, about, bucket, place, limits, metrics).await.map_err(unstarted)?;
            self.pool.speaks(project, bucket, Spoken::Http2);
            return Ok(self.pool.add_multi(bucket, multi).map(|slot| Carrier::Many(Arc::new(slot))));
        }
        if offer == Offer::Both {
            self.pool.speaks(project, bucket, Spoken::Http1);
        }
        let conn = connection::start(stream, about, bucket, place, metrics, false).await.map_err(unstarted)?;
        Ok(Some(Carrier::One(conn)))
    }

    /// An HTTP/1.1 connection of its own for a request that is to become something else; `None` if its identity was
    /// retired meanwhile.
    pub(super) async fn open_upgradable(
        &self,
        project: &ProjectId,
        bucket: &Arc<Bucket>,
    ) -> Result<Option<Conn>, Failure> {
        self.while_active(bucket, self.make_upgradable(project, bucket)).await
    }

    async fn make_upgradable(&self, project: &ProjectId, bucket: &Arc<Bucket>) -> Result<Conn, Failure> {
        let deadline = Instant::now() + self.pool.limits.connect_timeout();
        let place = loop {
            let room = bucket.room.notified();
            if let Some(place) = bucket.try_open() {
                break place;
            }
            self.pool.make_room(bucket);
            if timeout_at(deadline, room).await.is_err() {
                self.pool.metrics.upstream_connections_full.add();
                return Err(self.full(bucket));
            }
        };
        let _dial = self.dial_permit(bucket).await?;
        let before = self.dialer.policy.generation();
        let _unless = Thrown::away(bucket, &self.pool.metrics);
        let metrics = &self.pool.metrics;
        let conn = if bucket.name.is_some() {
            let (stream, about, _) = self.secure(project, bucket, Offer::Http1).await?;
            connection::start(stream, about, bucket, place, metrics, true).await
        } else {
            let (stream, address) = self.reach_plain(project, bucket).await?;
            let about = Arc::new(About::new(address, None, false, None));
            connection::start(stream, about, bucket, place, metrics, true).await
        };
        let conn = conn.map_err(unstarted)?;
        self.still_permitted(bucket, &conn.about, before)?;
        Ok(conn)
    }

    async fn reach_plain(
        &self,
        project: &ProjectId,
        bucket: &Bucket,
    ) -> Result<(crate::net::Stream, std::net::SocketAddr), Failure> {
        let (host, port) = (bucket.to.host(), bucket.to.port());
        self.dialer.reach_plain(project, bucket.via.as_ref(), host, port).await
    }

    async fn dial_permit(&self, bucket: &Arc<Bucket>) -> Result<Turn, Failure> {
        timeout(self.pool.limits.connect_timeout(), bucket.turn()).await.map_err(|_| {
            Failure::new(Code::LimitConnections, format!("too many handshakes with {} are under way", bucket.to))
        })
    }

    /// A handshake, and whether HTTP/2 was agreed on.
    async fn secure(
        &self,
        project: &ProjectId,
        bucket: &Bucket,
        offer: Offer,
    ) -> Result<(tokio_rustls::client::TlsStream<super::socket::Socket>, Arc<About>, bool), Failure> {
        let (Destination::Tls(origin), Some(name)) = (&bucket.to, &bucket.name) else {
            return Err(Failure::new(Code::Internal, "TLS was asked for where there is none"));
        };
        let secured =
            self.dialer.tls(project, &bucket.tls, bucket.via.as_ref(), origin, name, (Handshake::Any, offer)).await?;
        let asked = if secured.resumed {
            bucket.tls.last_asked(origin)
        } else {
            bucket.tls.remember_asked(origin, secured.asked.as_ref());
            secured.asked
        };
        let about = Arc::new(About::new(secured.address, Some(secured.version), secured.resumed, asked));
        let h2 = secured.stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((secured.stream, about, h2))
    }
}

/// Counts a handshake that ends, in whatever way, after its identity was retired.
struct Thrown<'a> {
    bucket: &'a Bucket,
    metrics: &'a Metrics,
}

impl<'a> Thrown<'a> {
    fn away(bucket: &'a Bucket, metrics: &'a Metrics) -> Self {
        Self { bucket, metrics }
    }
}

impl Drop for Thrown<'_> {
    fn drop(&mut self) {
        if !self.bucket.tls.life().is_active() {
            self.metrics.retired_handshakes.add();
        }
    }
}

fn unstarted(error: hyper::Error) -> Failure {
    Failure::new(Code::Internal, format!("the connection could not be started: {error}"))
}
