//! gRPC as its users write it, grpcio on both sides: every kind of call arrives with the partner's certificate, by
//! interception under `egret run --` and through a sidecar that speaks h2c; metadata, trailers, statuses, deadlines and
//! cancellations cross.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::laptop::{Laptop, NAME, Served, client, python, said};
use crate::harness::nginx::Site;
use crate::harness::world::World;
use crate::harness::{eventually, run_within};

/// A laptop, an origin, and where the origin writes down what it received.
struct Scene {
    laptop: Laptop,
    origin: Served,
    record: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Intercepted,
    Sidecar,
}

const WAYS: [Way; 2] = [Way::Intercepted, Way::Sidecar];

impl Scene {
    fn new() -> Self {
        Self::aging(None)
    }

    /// `age`: after so many milliseconds the origin sends a GOAWAY.
    fn aging(age: Option<&str>) -> Self {
        let world = World::new();
        let [cert, key, _] = world.server(&[NAME]).write(world.path("").as_path());
        let clients = world.write("clients.pem", &world.partner.pem());
        let record = world.path("record");
        let origin = {
            let mut arguments: Vec<&Path> = vec![&cert, &key, &clients, &record];
            arguments.extend(age.map(Path::new));
            Served::start("grpc_origin.py", &arguments)
        };
        let url = format!("https://{NAME}:{}", origin.port);
        let laptop = Laptop::among(world, Site::http2, |setup| {
            setup.listener("dev", "forward", "project = \"default\"").listener(
                "partner",
                "sidecar",
                &format!("project = \"default\"\norigin = \"{url}\""),
            )
        });
        laptop.egret().upload("default", Some(&url), &laptop.client);
        Self { laptop, origin, record }
    }

    /// What the client got.
    #[track_caller]
    fn call(&self, way: Way, call: &str) -> Value {
        let (kind, target) = match way {
            Way::Intercepted => ("secure", format!("{NAME}:{}", self.origin.port)),
            Way::Sidecar => ("insecure", self.laptop.egret().listener("partner").to_string()),
        };
        answer_of(&self.laptop, kind, &target, call)
    }

    /// What the origin received, once it was as many calls. All of them with the partner's certificate.
    #[track_caller]
    fn received(&self, count: usize) -> Vec<Value> {
        let received = eventually("the origin was done with every call", || {
            let text = std::fs::read_to_string(&self.record).unwrap_or_default();
            let calls: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
            (calls.len() >= count).then_some(calls)
        });
        assert_eq!(received.len(), count, "{received:?}");
        for call in &received {
            assert_eq!(call["subject"], json!([self.laptop.client.name]), "{call}");
        }
        received
    }

    /// A call in both ways; what was answered and what the origin received.
    fn both_ways(&self, call: &str, check: impl Fn(Way, Value, &Value)) {
        for (index, way) in WAYS.into_iter().enumerate() {
            let answer = self.call(way, call);
            check(way, answer, &self.received(index + 1)[index]);
        }
    }

    fn name(&self) -> &str {
        &self.laptop.client.name
    }
}

#[track_caller]
fn answer_of(laptop: &Laptop, kind: &str, target: &str, call: &str) -> Value {
    let mut run = laptop.run(&[&python(), &client("grpc_calls.py"), kind, target, call]);
    let output = run_within(Duration::from_secs(90), &mut run);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn unary_with_metadata_and_trailers() {
    let scene = Scene::new();
    scene.both_ways("unary", |way, answer, received| {
        assert_eq!(answer["status"], "OK", "{way:?}: {answer}");
        assert_eq!(answer["messages"], json!([scene.name()]), "{way:?}");
        assert_eq!(answer["before"]["before"], "the answer", "{way:?}: {answer}");
        assert_eq!(answer["after"], json!({ "after": "the answer", "bytes-bin": "00ff" }), "{way:?}");
        assert_eq!(received["messages"], json!(["one"]), "{way:?}");
        let metadata = received["metadata"].as_array().expect("a list");
        assert!(metadata.contains(&json!(["x-order", "17"])), "{way:?}: {metadata:?}");
        assert!(metadata.contains(&json!(["x-bytes-bin", "01fe"])), "{way:?}: {metadata:?}");
        let deadline = received["deadline"].as_f64().expect("the client gave one");
        assert!(deadline <= 30.0, "{way:?}: {deadline}");
    });
}

/// `egret run` starts an egret of its own, which asks for a credential: gRPC sends that of the proxy's URL.
#[test]
fn unary_with_the_credential_of_egret_run() {
    let scene = Scene::new();
    let scene = Scene { laptop: scene.laptop.stop(), ..scene };
    let answer = scene.call(Way::Intercepted, "unary");
    assert_eq!((&answer["status"], &answer["messages"]), (&json!("OK"), &json!([scene.name()])), "{answer}");
    scene.received(1);
}

#[test]
fn error_status_with_details_and_trailers() {
    let scene = Scene::new();
    scene.both_ways("refused", |way, answer, received| {
        assert_eq!(answer["status"], "FAILED_PRECONDITION", "{way:?}: {answer}");
        assert_eq!(answer["details"], "not today, für niemanden", "{way:?}");
        assert_eq!(answer["after"]["reason"], "none today", "{way:?}: {answer}");
        assert_eq!(received["ended"], "answered", "{way:?}");
    });
}

#[test]
fn server_streaming() {
    let scene = Scene::new();
    scene.both_ways("server_stream", |way, answer, _| {
        let messages: Vec<_> = (0..5).map(|number| format!("{number} {}", scene.name())).collect();
        assert_eq!((&answer["status"], &answer["messages"]), (&json!("OK"), &json!(messages)), "{way:?}: {answer}");
        assert_eq!(answer["after"], json!({ "after": "the stream" }), "{way:?}");
    });
}

#[test]
fn client_streaming() {
    let scene = Scene::new();
    scene.both_ways("client_stream", |way, answer, received| {
        assert_eq!(answer["status"], "OK", "{way:?}: {answer}");
        assert_eq!(answer["messages"], json!([scene.name()]), "{way:?}");
        assert_eq!(received["messages"], json!(["one", "two", "three"]), "{way:?}");
    });
}

/// The client sends each message only when the one before was answered: a side that is held back is a deadlock.
#[test]
fn both_directions_at_once() {
    let scene = Scene::new();
    scene.both_ways("both", |way, answer, received| {
        let messages: Vec<_> = (0..20).map(|number| format!("{number} {}", scene.name())).collect();
        assert_eq!((&answer["status"], &answer["messages"]), (&json!("OK"), &json!(messages)), "{way:?}: {answer}");
        assert_eq!(answer["after"], json!({ "after": "both streams" }), "{way:?}");
        assert_eq!(received["messages"].as_array().map(Vec::len), Some(20), "{way:?}");
    });
}

#[test]
fn deadlines_reach_the_origin() {
    let scene = Scene::new();
    scene.both_ways("deadline", |way, answer, received| {
        assert_eq!(answer["status"], "DEADLINE_EXCEEDED", "{way:?}: {answer}");
        assert_eq!(answer["messages"], json!([scene.name()]), "{way:?}: what came in time");
        assert_eq!(received["ended"], "gone", "{way:?}");
        let deadline = received["deadline"].as_f64().expect("the client gave one");
        assert!(deadline <= 1.5, "{way:?}: {deadline}");
    });
}

/// The client gives no deadline, so the origin learns of the cancellation or waits for a minute.
#[test]
fn cancellations_reach_the_origin() {
    let scene = Scene::new();
    scene.both_ways("cancel", |way, answer, received| {
        assert_eq!(answer["status"], "CANCELLED", "{way:?}: {answer}");
        assert_eq!(answer["messages"], json!([scene.name()]), "{way:?}");
        assert_eq!((&received["ended"], &received["deadline"]), (&json!("gone"), &Value::Null), "{way:?}");
    });
}

#[test]
fn heavy_200_calls_at_once() {
    let scene = Scene::new();
    for (index, way) in WAYS.into_iter().enumerate() {
        let answer = scene.call(way, "many");
        assert_eq!(answer["messages"], json!(vec![scene.name(); 200]), "{way:?}");
        let received = scene.received(200 * (index + 1));
        let mut messages: Vec<u64> = received[200 * index..]
            .iter()
            .map(|call| call["messages"][0].as_str().and_then(|text| text.parse().ok()).expect("a number"))
            .collect();
        messages.sort_unstable();
        assert_eq!(messages, (0..200).collect::<Vec<_>>(), "{way:?}: each of them once");
    }
}

#[test]
fn heavy_no_call_fails_while_the_origin_goes_away_every_second() {
    for way in WAYS {
        let scene = Scene::aging(Some("1000"));
        let answer = scene.call(way, "steady");
        assert_eq!(answer["failed"], json!([]), "{way:?}");
        let answered = answer["answered"].as_u64().expect("a number");
        let received = scene.received(usize::try_from(answered).expect("not that many"));
        assert!(received.iter().all(|call| call["ended"] == "answered"), "each of them once, and whole");
        let connections: HashSet<&str> = received.iter().filter_map(|call| call["peer"].as_str()).collect();
        assert!(connections.len() >= 4, "{way:?}: {} connections in six seconds", connections.len());
    }
}

/// gRPC needs HTTP/2 up to the origin. What has only HTTP/1.1 is told as gRPC tells it.
#[test]
fn origin_with_http_1_alone_is_unavailable() {
    let laptop = Laptop::among(World::new(), |site| site, |setup| setup);
    let answer = answer_of(&laptop, "secure", &format!("{NAME}:{}", laptop.nginx.port()), "unary");
    assert_eq!(answer["status"], "UNAVAILABLE", "{answer}");
    assert!(answer["details"].as_str().is_some_and(|details| details.contains("HTTP/2")), "says why: {answer}");
}
