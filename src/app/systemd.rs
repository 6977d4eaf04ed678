//! What the service manager is told (sd_notify(3)): nothing unless it asks, by `NOTIFY_SOCKET`.
//!
//! Telling never fails egret: whoever does not listen misses something, and that is logged.

use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState;

use super::Bound;
use crate::config::LiveLimits;

/// On top of what draining may take: closing, and answering the last API calls.
const MARGIN: Duration = Duration::from_secs(5);

/// Every socket is bound and the store is loaded.
pub(super) fn ready(bound: &Bound) {
    tell(&[NotifyState::Ready, NotifyState::Status(&serving(bound))]);
}

/// The configuration is about to be read again. [`reloaded`] must follow, whatever comes of it.
pub fn reloading() {
    let state = [NotifyState::Reloading, NotifyState::Status("reading the configuration again")];
    // The time tells the manager which reload this is (systemd 253); without it the rest is of no use there.
    match NotifyState::monotonic_usec_now() {
        Ok(time) => tell(&[&state[..], &[time]].concat()),
        Err(error) => tracing::debug!(%error, "the system has no monotonic clock"),
    }
}

/// It was read again: what is in force now, in a sentence, or why that is still the old one.
pub fn reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The end has begun. The manager waits for as long as draining may take, whatever its own time-out says.
pub(super) fn stopping(bound: &Bound) {
    let most = longest_end(&bound.limits);
    let status = format!("ending: what runs may finish, for {} s at most", most.as_secs());
    let time = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(time)]);
}

/// Tells the manager, as often as it wants to hear it (`WatchdogSec=`), that egret lives: from this runtime, and only
/// after a task of the data plane has run. `None` if it does not want to.
pub(super) fn watchdog(bound: &Bound) -> Option<impl Future<Output = ()> + Send + use<>> {
    // Half of the time: one that comes late is no reason to be ended.
    let pause = sd_notify::watchdog_enabled()? / 2;
    let data_plane = bound.data_plane.as_ref()?.handle().clone();
    Some(async move {
        let mut tick = tokio::time::interval(pause.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if data_plane.spawn(async {}).await.is_err() {
                return;
            }
            tell(&[NotifyState::Watchdog]);
        }
    })
}

/// `drain_delay`, then `drain_timeout` for the proxy and once more for the API.
fn longest_end(limits: &LiveLimits) -> Duration {
    limits.drain_delay() + 2 * limits.drain_timeout() + MARGIN
}

fn serving(bound: &Bound) -> String {
    let listeners = bound.listeners().iter().map(|l| format!("{} on {}", l.name, l.address));
    let all: Vec<String> = listeners.chain([format!("API at {}", bound.management().url())]).collect();
    format!("serving: {}", all.join(", "))
}

/// A line break would begin another variable of the message.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told: NOTIFY_SOCKET leads nowhere");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    #[test]
    fn the_manager_waits_longer_than_draining_takes_and_hears_one_line() {
        let (delay, timeout) = (Duration::from_secs(20), Duration::from_secs(90));
        let limits = LiveLimits::new(&Limits { drain_delay: delay, drain_timeout: timeout, ..Limits::default() });
        assert!(longest_end(&limits) > delay + 2 * timeout);
        assert_eq!(one_line("broken:\nREADY=1\r"), "broken: READY=1 ");
    }
}
