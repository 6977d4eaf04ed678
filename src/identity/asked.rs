//! What an origin asked for in a handshake, and what it was given.
//!
//! rustls tells a resolver nothing of the connection it works for, and a resolver per connection
//! would switch resumption off (rustls refuses to resume across resolvers, rightly). So there is one
//! fixed resolver per `UpstreamTls`, and the attempt it works for is found in a task-local.

use std::future::Future;
use std::sync::{Arc, Mutex};

/// CA names kept of those that an origin lists; the rest is only counted.
const MAX_NAMES: usize = 64;
/// Bytes of them.
const MAX_NAME_BYTES: usize = 16 * 1024;

tokio::task_local! {
    static ATTEMPT: Arc<Mutex<Option<Asked>>>;
}

/// What was done about a CertificateRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// The certificate was sent, or would have been, had the handshake come so far: see [`Asked::signed`].
    Sent,
    /// There is none for this origin.
    NothingRegistered,
    /// The scope of the project default held it back.
    Withheld,
    /// The key can make none of the signatures that the origin accepts.
    NoCommonScheme,
}

/// A CertificateRequest (RFC 8446 section 4.3.2, RFC 5246 section 7.4.4) and our answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// DER names of the CAs that the origin listed, at most 64 and 16 KiB.
    pub cas: Vec<Vec<u8>>,
    /// How many it listed.
    pub ca_count: usize,
    /// What was done.
    pub presented: Presented,
    /// Whether the certificate really went out. The question comes before the origin's own certificate is verified; what
    /// is signed (CertificateVerify) goes out together with the certificate, after that.
    pub signed: bool,
}

/// Runs a handshake and says what the origin asked for; `None` if it did not ask (or resumed). `shown` is called once it is
/// over if the certificate went out, also where it is dropped on the way: the origin has seen it all the same.
pub async fn recorded<F: Future>(handshake: F, shown: impl FnOnce()) -> (F::Output, Option<Asked>) {
    let slot = Arc::new(Mutex::new(None));
    let _shown = Shown { slot: slot.clone(), tell: Some(shown) };
    let output = ATTEMPT.scope(slot.clone(), handshake).await;
    let asked = slot.lock().expect("nothing panics while holding it").clone();
    (output, asked)
}

/// See [`recorded`].
struct Shown<T: FnOnce()> {
    slot: Arc<Mutex<Option<Asked>>>,
    tell: Option<T>,
}

impl<T: FnOnce()> Drop for Shown<T> {
    fn drop(&mut self) {
        let signed = self.slot.lock().is_ok_and(|asked| asked.as_ref().is_some_and(|asked| asked.signed));
        if let Some(tell) = self.tell.take().filter(|_| signed) {
            tell();
        }
    }
}

/// The first names, within both bounds: what an origin lists must not fill the memory.
fn kept(hints: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut left = MAX_NAME_BYTES;
    let fits = |name: &&&[u8]| {
        left = left.saturating_sub(name.len());
        left > 0
    };
    hints.iter().take(MAX_NAMES).take_while(fits).map(|name| name.to_vec()).collect()
}

pub(super) fn record(hints: &[&[u8]], presented: Presented) {
    // Outside of `recorded` (a third party's handshake) there is nobody to tell.
    let _ = ATTEMPT.try_with(|slot| {
        *slot.lock().expect("nothing panics while holding it") =
            Some(Asked { cas: kept(hints), ca_count: hints.len(), presented, signed: false });
    });
}

/// Says that the client certificate of the handshake at hand goes out now.
pub(super) fn record_signed() {
    let _ = ATTEMPT.try_with(|slot| {
        if let Some(asked) = &mut *slot.lock().expect("nothing panics while holding it") {
            asked.signed = true;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_certificate_that_went_out_was_shown_also_if_nobody_waits_for_the_end_of_the_handshake() {
        for (signs, waits) in [(true, true), (true, false), (false, true), (false, false)] {
            let shown = std::cell::Cell::new(0);
            let handshake = async {
                record(&[], Presented::Sent);
                if signs {
                    record_signed();
                }
                if !waits {
                    std::future::pending::<()>().await;
                }
            };
            let mut recorded = Box::pin(recorded(handshake, || shown.set(shown.get() + 1)));
            assert_eq!(futures_util::poll!(&mut recorded).is_ready(), waits);
            drop(recorded);
            assert_eq!(shown.get(), u32::from(signs), "signs: {signs}, waits: {waits}");
        }
    }

    #[test]
    fn keeps_the_first_names_within_both_bounds() {
        let short = [7_u8; 100];
        assert_eq!(kept(&[&short[..]; 10]).len(), 10);
        assert_eq!(kept(&[&short[..]; 100]).len(), MAX_NAMES);
        let long = vec![7; 6 * 1024];
        assert_eq!(kept(&[&long[..]; 10]).len(), 2);
    }
}
