//! Those who listen to the events, and do not keep up, or whose project has gone.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::json;

use super::{ADMIN, LANDLORD, World, world};
use crate::observe::{Event, EventKind};

impl World {
    async fn listen(&self, token: &str, target: &str) -> Body {
        let request =
            Request::get(target).header("host", "localhost").header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        assert_eq!(response.status(), 200, "{target}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body()
    }
}

async fn next(body: &mut Body) -> String {
    let frame = body.frame().await.expect("it goes on").expect("it does not fail");
    String::from_utf8(frame.into_data().expect("bytes").to_vec()).expect("text")
}

#[tokio::test]
async fn whoever_falls_behind_is_told_how_much_was_missed() {
    let world = world().await;
    let mut slow = world.listen(ADMIN, "/v1/events").await;
    assert_eq!(next(&mut slow).await, ": egret\n\n");
    let events = world.management.control.events();
    let all = 1000;
    for n in 0..all {
        events.emit(Event::new(EventKind::Reloaded, format!("number {n}")));
    }
    let first = next(&mut slow).await;
    let count = first.strip_prefix("event: missed\ndata: ").expect("that it missed some");
    let missed = serde_json::from_str::<serde_json::Value>(count.trim()).unwrap()["count"].as_u64().expect("a number");
    assert!(missed > 0 && missed < all, "{missed}");
    for n in missed..all {
        let heard = next(&mut slow).await;
        assert!(heard.contains(&format!("\"message\":\"number {n}\"")), "{heard}");
    }
    assert_eq!(world.management.metrics.events_missed.get(), missed);
    assert_eq!(world.management.metrics.event_listeners.get(), 1);
    drop(slow);
    assert_eq!(world.management.metrics.event_listeners.get(), 0);
}

#[tokio::test]
async fn what_happens_to_egret_as_a_whole_is_told_to_unlimited_tokens_alone() {
    let world = world().await;
    world.management.control.events().emit(Event::new(EventKind::ReloadFailed, "/etc/egret.toml is broken"));
    world.uploaded("payments", "https://a.test").await;
    world.uploaded("default", "https://b.test").await;
    let heard = async |token| {
        let body = world.listen(token, "/v1/events?wait=false").await;
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    let told = [heard(ADMIN).await, heard(LANDLORD).await];
    let has = |text: &str| told.each_ref().map(|heard| heard.contains(text));
    assert_eq!(has("config.reload_failed"), [true, false]);
    assert_eq!(has("https://a.test"), [true, true]);
    assert_eq!(has("https://b.test"), [true, false]);
}

/// A token loses a project that is deleted, and so does whoever listens with it: a project of the same id is another one.
#[tokio::test]
async fn a_listener_loses_a_project_that_is_deleted() {
    let world = world().await;
    let short = json!({"name": "short", "id": "prj_short"});
    assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &short).await.status, 200);
    let wanted = json!({"name": "t", "role": "read", "projects": ["short", "payments"]});
    let made = world.send(ADMIN, "POST", "/v1/tokens", &wanted).await;
    let token = made.body["token"].as_str().expect("its text").to_owned();
    world.uploaded("short", "https://a.test").await;
    let mut listening = world.listen(&token, "/v1/events").await;
    assert_eq!(next(&mut listening).await, ": egret\n\n");
    assert!(next(&mut listening).await.contains("https://a.test"));

    assert_eq!(world.send(ADMIN, "DELETE", "/v1/projects/prj_short", &serde_json::Value::Null).await.status, 200);
    assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &short).await.status, 200);
    world.uploaded("short", "https://b.test").await;
    world.uploaded("payments", "https://c.test").await;
    let heard = next(&mut listening).await;
    assert!(heard.contains("https://c.test") && !heard.contains("https://b.test"), "{heard}");
    let anew = world.listen(&token, "/v1/events?wait=false").await;
    let anew = String::from_utf8(anew.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(anew.contains("https://c.test") && !anew.contains("https://b.test"), "{anew}");
}
