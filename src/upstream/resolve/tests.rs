//! `[dns] servers` against a name server of our own, over UDP and TCP.

use std::sync::Mutex;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::config::Limits;

/// Every question, as `udp A name.`
type Asked = Arc<Mutex<Vec<String>>>;

struct NameServer {
    address: SocketAddr,
    asked: Asked,
}

impl NameServer {
    async fn start() -> Self {
        let asked: Asked = Arc::default();
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be taken in TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let ours = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                if let Some(answer) = answer(&buffer[..length], "udp", &ours) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let ours = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let ours = ours.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; length.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        if let Some(answer) = answer(&query, "tcp", &ours) {
                            stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                            stream.write_all(&answer).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }
}

fn answer(query: &[u8], over: &str, asked: &Asked) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).unwrap();
    let question = message.queries[0].clone();
    let (name, kind) = (question.name().to_string(), question.query_type());
    asked.lock().unwrap().push(format!("{over} {kind} {name}"));
    let mut response = message.into_response();
    let mut add = |name: &Name, ttl, data| {
        response.add_answer(Record::from_rdata(name.clone(), ttl, data));
    };
    let v4 = |n: u8| RData::A(A::new(10, 0, 0, n));
    match (name.as_str(), kind) {
        ("both.test.", RecordType::A) => add(question.name(), 60, v4(1)),
        ("both.test.", RecordType::AAAA) => {
            add(question.name(), 30, RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)))
        }
        ("brief.test.", RecordType::A) => add(question.name(), 0, v4(2)),
        ("ages.test.", RecordType::A) => add(question.name(), 86_400, v4(3)),
        ("alias.test.", RecordType::A) => {
            let target = Name::from_ascii("both.test.").unwrap();
            add(question.name(), 20, RData::CNAME(CNAME(target.clone())));
            add(&target, 60, v4(1));
        }
        ("large.test.", RecordType::A) if over == "udp" => response.metadata.truncation = true,
        ("large.test.", RecordType::A) => (0..100).for_each(|n| add(question.name(), 60, v4(n))),
        ("half.test.", RecordType::A) => add(question.name(), 60, v4(4)),
        ("half.test." | "broken.test.", _) => response.metadata.response_code = ResponseCode::ServFail,
        ("mute.test.", _) => return None,
        ("mixed.test.", RecordType::A) => {
            add(question.name(), 60, v4(5));
            add(question.name(), 60, RData::A(A::new(169, 254, 169, 254)));
        }
        (name, _) if ["both.", "brief.", "ages.", "alias.", "large.", "mixed."].iter().any(|n| name.starts_with(n)) => {
        }
        _ => response.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(response.to_vec().unwrap())
}

fn resolver(servers: &[SocketAddr], timeout: Duration) -> Resolver {
    let limits = Limits { dns_timeout: timeout, ..Limits::default() };
    Resolver::new(HashMap::new(), servers, limits.into(), Arc::default())
}

async fn resolve(resolver: &Resolver, name: &str) -> Result<Vec<String>, Failure> {
    let project = ProjectId::parse("prj_1").unwrap();
    let found = resolver.resolve(&project, &Host::parse(name).unwrap(), 443).await?;
    Ok(found.iter().map(|address| address.ip().to_string()).collect())
}

async fn ttl(server: &NameServer, name: &str) -> Duration {
    let servers = Servers::new(&[server.address], Duration::from_secs(5)).unwrap();
    match servers.lookup(&Host::parse(name).unwrap(), Duration::from_secs(5)).await.unwrap() {
        Answer::Addresses(_, ttl) => ttl,
        Answer::NotFound => panic!("not found"),
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn both_families_are_asked_of_the_server_alone_and_remembered() {
    let server = NameServer::start().await;
    let resolver = resolver(&[server.address], LONG);
    for _ in 0..2 {
        assert_eq!(resolve(&resolver, "both.test").await.unwrap(), ["fd00::1", "10.0.0.1"]);
    }
    assert_eq!(server.asked(), ["udp A both.test.", "udp AAAA both.test."]);
    assert_eq!(resolve(&resolver, "alias.test").await.unwrap(), ["10.0.0.1"]);
    // A name of one label is asked as it is, without search domains.
    assert_eq!(resolve(&resolver, "single").await.unwrap_err().code, Code::DnsNotFound);
    assert_eq!(server.asked().iter().filter(|asked| asked.contains("single")).count(), 2);
    assert!(server.asked().iter().any(|asked| asked == "udp A single."));
}

#[tokio::test]
async fn answers_hold_as_long_as_they_say_within_bounds() {
    let server = NameServer::start().await;
    for (name, seconds) in [("both.test", 30), ("brief.test", 1), ("ages.test", 300), ("alias.test", 20)] {
        assert_eq!(ttl(&server, name).await, Duration::from_secs(seconds), "{name}");
    }
}

#[tokio::test]
async fn a_long_answer_comes_over_tcp_and_is_cut_at_the_bound() {
    let server = NameServer::start().await;
    assert_eq!(resolve(&resolver(&[server.address], LONG), "large.test").await.unwrap().len(), MAX_ADDRESSES / 2);
    assert!(server.asked().contains(&"tcp A large.test.".to_owned()));
}

#[tokio::test]
async fn failures_are_told_from_names_that_do_not_exist() {
    let server = NameServer::start().await;
    let fast = resolver(&[server.address], Duration::from_millis(300));
    assert_eq!(resolve(&fast, "mute.test").await.unwrap_err().code, Code::DnsFailed);
    let resolver = resolver(&[server.address], LONG);
    assert_eq!(resolve(&resolver, "nobody.test").await.unwrap_err().code, Code::DnsNotFound);
    let failure = resolve(&resolver, "broken.test").await.unwrap_err();
    assert_eq!(failure.code, Code::DnsFailed);
    assert!(failure.detail.contains(&server.address.to_string()), "{}", failure.detail);
    assert_eq!(resolve(&resolver, "half.test").await.unwrap(), ["10.0.0.4"], "one family is enough");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_does_not_answer() {
    let server = NameServer::start().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let two = resolver(&[dead.local_addr().unwrap(), server.address], Duration::from_secs(2));
    assert_eq!(resolve(&two, "both.test").await.unwrap(), ["fd00::1", "10.0.0.1"]);
}

#[tokio::test]
async fn addresses_that_may_not_be_reached_are_left_out_or_refuse_the_name() {
    use crate::config::{DnsMixed, EgressSettings};
    use crate::policy::EgressPolicy;
    use crate::upstream::{WaysOut, connect::Dialer};

    let server = NameServer::start().await;
    let policy = Arc::new(EgressPolicy::new(&EgressSettings::default()));
    for mixed in [DnsMixed::Drop, DnsMixed::Refuse] {
        let ways = WaysOut { servers: vec![server.address], mixed, ..WaysOut::default() };
        let dialer = Dialer::new(ways, policy.clone(), LiveLimits::default(), Arc::default());
        let (project, host) = (ProjectId::parse("prj_1").unwrap(), Host::parse("mixed.test").unwrap());
        let permitted = dialer.permitted(&project, &host, 443, |address| policy.judge_address(address)).await;
        match mixed {
            DnsMixed::Drop => assert_eq!(permitted.unwrap(), ["10.0.0.5:443".parse().unwrap()]),
            DnsMixed::Refuse => assert_eq!(permitted.unwrap_err().code, Code::PolicyAddressDenied),
        }
    }
}
