use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn policy(allow: &[&str], deny: &[&str], exceptions: &[(&str, Option<u16>)]) -> EgressPolicy {
    let patterns = |list: &[&str]| list.iter().map(|p| Pattern::parse(p).unwrap()).collect();
    EgressPolicy::new(&EgressSettings {
        allow: patterns(allow),
        deny: patterns(deny),
        allow_addresses: exceptions.iter().map(|(net, port)| (net.parse().unwrap(), *port)).collect(),
        ..EgressSettings::default()
    })
}

fn guard() -> EgressPolicy {
    policy(&["*"], &[], &[])
}

fn reaches(policy: &EgressPolicy, ip: &str, port: u16) -> bool {
    policy.judge_address(SocketAddr::new(ip.parse().unwrap(), port)).is_ok()
}

/// Every entry of the IANA special-purpose registries (IPv4, IPv6; October 2025) and of the multicast ones, whether
/// profile `local` reaches it, and then the borders around.
#[rustfmt::skip]
const REGISTRIES: &[(&str, bool)] = &[
    ("0.0.0.0/8", false), ("0.0.0.0/32", false), ("10.0.0.0/8", true), ("100.64.0.0/10", true), ("127.0.0.0/8", true),
    ("169.254.0.0/16", false), ("172.16.0.0/12", true), ("192.0.0.0/24", false), ("192.0.0.0/29", false),
    ("192.0.0.8/32", false), ("192.0.0.9/32", true), ("192.0.0.10/32", true), ("192.0.0.170/32", false),
    ("192.0.0.171/32", false), ("192.0.2.0/24", false), ("192.31.196.0/24", true), ("192.52.193.0/24", true),
    ("192.88.99.0/24", false), ("192.88.99.2/32", false), ("192.168.0.0/16", true), ("192.175.48.0/24", true),
    ("198.18.0.0/15", true), ("198.51.100.0/24", false), ("203.0.113.0/24", false), ("240.0.0.0/4", false),
    ("255.255.255.255/32", false), ("224.0.0.0/4", false),
    // just outside
    ("1.0.0.0/32", true), ("9.255.255.255/32", true), ("11.0.0.0/32", true), ("100.63.255.255/32", true),
    ("100.128.0.0/32", true), ("126.255.255.255/32", true), ("128.0.0.0/32", true), ("169.253.255.255/32", true),
    ("169.255.0.0/32", true), ("172.15.255.255/32", true), ("172.32.0.0/32", true), ("191.255.255.255/32", true),
    ("192.0.1.0/32", true), ("192.0.3.0/32", true), ("192.88.98.255/32", true), ("192.88.100.0/32", true),
    ("192.167.255.255/32", true), ("192.169.0.0/32", true), ("198.17.255.255/32", true), ("198.20.0.0/32", true),
    ("198.51.99.255/32", true), ("198.51.101.0/32", true), ("203.0.112.255/32", true), ("203.0.114.0/32", true),
    ("223.255.255.255/32", true),
    // clouds
    ("169.254.169.254/32", false), ("169.254.170.2/32", false), ("100.100.100.200/32", false),
    ("168.63.129.16/32", false), ("192.0.0.192/32", false), ("168.63.129.17/32", true), ("100.100.100.100/32", true),
    // IPv6
    ("::1/128", true), ("::/128", false), ("100::/64", false), ("100:0:0:1::/64", false),
    ("2001:1::1/128", true), ("2001:1::2/128", true), ("2001:1::3/128", true), ("2001:1::4/128", false),
    ("2001:2::/48", false), ("2001:3::/32", true), ("2001:4:112::/48", true), ("2001:10::/28", false),
    ("2001:20::/28", true), ("2001:30::/28", true), ("2001:40::/32", false), ("2001:1ff::/32", false),
    ("2001:db8::/32", false), ("2620:4f:8000::/48", true), ("3fff::/20", false), ("5f00::/16", false),
    ("fc00::/7", true), ("fe80::/10", false), ("ff00::/8", false),
    ("fd00:ec2::254/128", false), ("fd00:ec2::23/128", false), ("fd20:ce::254/128", false), ("fd00:ec2::1/128", true),
    // just outside, and what IANA has given to nobody
    ("2001:200::/32", true), ("2001:db7::/32", true), ("2001:db9::/32", true), ("3fff:1000::/32", true),
    ("2000::/32", true), ("2606:4700::/32", true), ("1fff::/16", false), ("4000::/16", false), ("64:ff9b:2::/48", false),
    ("64:ff9a::/32", false), ("fbff::/16", false), ("fec0::/10", false), ("200::/7", false), ("::2/128", false), ("0:1::/32", false),
];

/// Addresses of `net`: the first, the last, and some between.
fn samples(net: IpNet) -> Vec<IpAddr> {
    let mut out = vec![net.network(), net.broadcast()];
    for step in [1_u128, 7, 0x1234, 0x5a5a_5a5a, 0x1111_2222_3333_4444] {
        out.push(match net {
            IpNet::V4(n) => {
                IpAddr::V4(Ipv4Addr::from_bits(n.network().to_bits() | (step as u32 & n.hostmask().to_bits())))
            }
            IpNet::V6(n) => IpAddr::V6(Ipv6Addr::from_bits(n.network().to_bits() | (step & n.hostmask().to_bits()))),
        });
    }
    out
}

/// The longest entry of the table that holds `ip`.
fn expected(ip: IpAddr) -> Option<bool> {
    let entries = REGISTRIES.iter().map(|(net, ok)| (net.parse::<IpNet>().unwrap(), *ok));
    entries.filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len()).map(|(_, ok)| ok)
}

#[test]
fn follows_the_registries_entry_by_entry() {
    let guard = guard();
    for (net, _) in REGISTRIES {
        for ip in samples(net.parse().unwrap()) {
            let want = expected(ip).unwrap();
            let got = guard.judge_address(SocketAddr::new(ip, 443));
            assert_eq!(got.is_ok(), want, "{ip} of {net}: {got:?}");
        }
    }
}

/// The IPv6 forms that carry `v4`, each of which leads to it.
fn carriers(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let v4 = u128::from(v4.to_bits());
    let other = u128::from(Ipv4Addr::new(8, 8, 8, 8).to_bits());
    let net = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    [
        net("64:ff9b::") | v4,
        net("64:ff9b:1::") | v4,
        net("64:ff9b:1:abcd::") | v4,
        net("64:ff9b:1:0:0:0::") | (v4 << 24), // the /64 form
        net("2002::") | (v4 << 80) | 1,
        net("2001::") | (v4 << 64) | (!other & 0xffff_ffff),
        net("2001::") | (other << 64) | (!v4 & 0xffff_ffff),
        net("2606:4700::5efe:0:0") | v4,
        net("fd00::200:5efe:0:0") | v4,
    ]
    .map(Ipv6Addr::from_bits)
    .to_vec()
}

#[test]
fn judges_an_ipv4_address_inside_an_ipv6_one() {
    let guard = guard();
    for (net, _) in REGISTRIES.iter().filter(|(net, _)| !net.contains(':')) {
        for ip in samples(net.parse().unwrap()) {
            let IpAddr::V4(v4) = ip else { unreachable!() };
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            assert_eq!(guard.judge_address(SocketAddr::new(mapped, 443)).is_ok(), expected(ip).unwrap(), "{mapped}");
            if expected(ip) == Some(false) || v4.is_loopback() {
                for carrier in carriers(v4) {
                    assert!(guard.judge_address(SocketAddr::new(carrier.into(), 443)).is_err(), "{carrier} of {v4}");
                }
            }
        }
    }
    for good in
        ["64:ff9b::808:808", "64:ff9b::a01:203", "64:ff9b:1::a01:203", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7"]
    {
        assert!(reaches(&guard, good, 443), "{good}");
    }
    // IPv4-compatible addresses lead nowhere any more, whatever is in them (RFC 4291 section 2.5.5.1).
    for bad in ["::8.8.8.8", "::127.0.0.1", "::10.0.0.1", "64:ff9b:1:a9fe:a9:fe00::", "::ffff:0:8.8.8.8"] {
        assert!(!reaches(&guard, bad, 443), "{bad}");
    }
}

#[test]
fn says_the_category_and_the_remedy_and_no_address() {
    let denied = guard().judge_address("[fe80::1]:443".parse().unwrap()).unwrap_err();
    assert_eq!(denied.code, Code::PolicyAddressDenied);
    assert!(denied.why.contains("a link-local address") && denied.why.contains("allow_addresses"), "{denied}");
    assert!(!denied.why.contains("fe80"));
}

#[test]
fn excepts_what_is_listed_on_the_port_that_is_listed() {
    let p = policy(&["*"], &[], &[("169.254.7.0/24", Some(443)), ("fe80::/10", None), ("::ffff:192.0.2.0/120", None)]);
    assert!(reaches(&p, "169.254.7.9", 443) && reaches(&p, "::ffff:169.254.7.9", 443));
    assert!(!reaches(&p, "169.254.7.9", 80) && !reaches(&p, "169.254.8.9", 443));
    assert!(reaches(&p, "fe80::1", 1) && reaches(&p, "192.0.2.1", 1));
    // The translator's link-local network is another one than ours.
    assert!(!reaches(&p, "64:ff9b::a9fe:709", 443));
}

#[test]
fn excepts_a_metadata_address_only_by_itself() {
    let wide = policy(&["*"], &[], &[("169.254.0.0/16", None), ("100.64.0.0/10", None), ("fd00::/8", None)]);
    for metadata in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254"] {
        assert!(!reaches(&wide, metadata, 80), "{metadata}");
    }
    assert!(reaches(&wide, "169.254.1.1", 80));
    let exact = policy(&["*"], &[], &[("169.254.169.254/32", Some(80))]);
    assert!(reaches(&exact, "169.254.169.254", 80) && !reaches(&exact, "169.254.169.254", 443));
}

#[test]
fn refuses_its_own_listeners_on_every_own_address_whatever_is_excepted() {
    let p = policy(&["*"], &[], &[("0.0.0.0/0", None), ("::/0", None)]);
    assert!(reaches(&p, "127.0.0.1", 8080), "nothing is bound yet");
    p.set_own(vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:9090".parse().unwrap()]);
    for own in [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ] {
        assert!(!reaches(&p, own, 8080) && !reaches(&p, own, 9090), "{own}");
        let denied = p.judge_address(SocketAddr::new(own.parse().unwrap(), 9090)).unwrap_err();
        assert!(denied.why.contains("egret itself"), "{denied}");
    }
    assert!(reaches(&p, "127.0.0.1", 8081));
    assert!(reaches(&p, "192.0.2.1", 8080), "no address of this host");
}

#[test]
fn refuses_its_own_listeners_on_the_address_of_an_interface() {
    // Which address this host would use to go out; nothing is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("198.18.0.1:9").is_err() {
        return; // no route, so no such address
    }
    let ip = socket.local_addr().unwrap().ip();
    let p = guard();
    p.set_own(vec!["0.0.0.0:8080".parse().unwrap()]);
    assert!(p.judge_address(SocketAddr::new(ip, 8080)).is_err(), "{ip}");
}

fn may(p: &EgressPolicy, host: &str, port: u16, tls: bool) -> bool {
    p.judge_origin(&Host::parse(host).unwrap(), port, tls).is_ok()
}

#[test]
fn deny_wins_over_allow_and_nothing_is_allowed_by_silence() {
    let p = policy(&["*"], &["https://bad.test", "https://*.evil.test:*"], &[]);
    assert!(may(&p, "good.test", 443, true) && may(&p, "good.test", 80, false));
    assert!(!may(&p, "bad.test", 443, true) && may(&p, "bad.test", 8443, true));
    assert!(!may(&p, "a.evil.test", 1, true) && may(&p, "evil.test", 1, true));
    let denied = policy(&[], &[], &[]).judge_origin(&Host::parse("a.test").unwrap(), 443, true).unwrap_err();
    assert_eq!(denied.code, Code::PolicyOriginDenied);
    assert!(!may(&policy(&["*"], &["*"], &[]), "a.test", 443, true));
    assert!(may(&policy(&["https://a.test:8443"], &[], &[]), "a.test", 8443, true));
}

#[test]
fn compares_plain_http_on_its_port_and_on_the_lifted_one() {
    let allowed = policy(&["https://a.test", "https://b.test:8080", "https://c.test:80"], &[], &[]);
    assert!(
        may(&allowed, "a.test", 80, false)
            && may(&allowed, "b.test", 8080, false)
            && may(&allowed, "c.test", 80, false)
    );
    assert!(!may(&allowed, "a.test", 8080, false) && !may(&allowed, "a.test", 80, true), "80 is lifted, nothing else");
    let denied = policy(&["*"], &["https://a.test", "https://c.test:80"], &[]);
    assert!(!may(&denied, "a.test", 80, false) && !may(&denied, "c.test", 80, false));
    assert!(may(&denied, "a.test", 8080, false) && may(&denied, "c.test", 443, true));
}

#[test]
fn refuses_the_names_of_metadata_services() {
    let p = policy(&["*", "https://metadata.google.internal:*"], &[], &[]);
    for name in ["metadata.google.internal", "METADATA.google.internal.", "x.metadata.goog", "instance-data"] {
        let denied = p.judge_origin(&Host::parse(name).unwrap(), 80, false).unwrap_err();
        assert_eq!(denied.code, Code::PolicyAddressDenied, "{name}");
    }
    assert!(may(&p, "my-instance-data", 443, true) && may(&p, "google.internal", 443, true));
}

proptest! {
    #[test]
    fn judges_every_address_without_panic_and_mapped_as_what_it_is(bits in any::<u128>(), small in any::<u32>(), port in any::<u16>()) {
        let guard = guard();
        let _ = guard.judge_address(SocketAddr::new(Ipv6Addr::from_bits(bits).into(), port));
        let v4 = Ipv4Addr::from_bits(small);
        prop_assert_eq!(
            guard.judge_address(SocketAddr::new(v4.into(), port)),
            guard.judge_address(SocketAddr::new(v4.to_ipv6_mapped().into(), port))
        );
    }

    #[test]
    fn no_carrier_reaches_what_may_not_be_reached(small in any::<u32>()) {
        let v4 = Ipv4Addr::from_bits(small);
        let guard = guard();
        if guard.judge_address(SocketAddr::new(v4.into(), 443)).is_err() {
            for carrier in carriers(v4) {
                prop_assert!(guard.judge_address(SocketAddr::new(carrier.into(), 443)).is_err(), "{}", carrier);
            }
        }
    }
}

#[test]
fn a_parent_may_be_anywhere_but_at_a_listener_of_egret() {
    let guard = guard();
    guard.set_own(vec!["127.0.0.1:8080".parse().unwrap()]);
    for good in ["127.0.0.1:3128", "169.254.1.1:3128", "10.0.0.1:8080", "[fe80::1]:1080"] {
        assert!(guard.judge_parent(good.parse().unwrap()).is_ok(), "{good}");
    }
    for own in ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
        assert_eq!(guard.judge_parent(own.parse().unwrap()).unwrap_err().code, Code::PolicyAddressDenied, "{own}");
    }
}

#[test]
fn loopback_behind_a_parent_is_the_parents_own() {
    let here: &[SocketAddr] = &["127.0.0.1:3128".parse().unwrap()];
    // TEST-NET-1: no machine has it.
    let there: &[SocketAddr] = &["127.0.0.1:3128".parse().unwrap(), "192.0.2.1:3128".parse().unwrap()];
    let p = policy(&["*"], &[], &[("127.0.0.5/32", Some(443))]);
    let judge = |ip: &str, parents| p.judge_behind(SocketAddr::new(ip.parse().unwrap(), 443), parents).is_ok();
    for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(judge(loopback, here), "{loopback}");
        assert!(!judge(loopback, there), "{loopback}");
    }
    assert!(judge("127.0.0.5", there) && judge("10.0.0.1", there) && judge("8.8.8.8", there));
    assert!(!judge("169.254.169.254", here) && !judge("169.254.169.254", there));
}

#[test]
fn replaced_rules_are_in_force_at_once_and_egret_itself_stays_refused() {
    let settings = |deny: &[&str], exceptions: &[(&str, Option<u16>)]| EgressSettings {
        allow: vec![Pattern::Default],
        deny: deny.iter().map(|p| Pattern::parse(p).unwrap()).collect(),
        allow_addresses: exceptions.iter().map(|(net, port)| (net.parse().unwrap(), *port)).collect(),
        ..EgressSettings::default()
    };
    let p = policy(&["https://a.test"], &[], &[]);
    p.set_own(vec!["127.0.0.1:8080".parse().unwrap()]);
    let (b, link_local) = (Host::parse("b.test").unwrap(), "169.254.1.1:443".parse().unwrap());
    assert!(p.judge_origin(&b, 443, true).is_err() && p.judge_address(link_local).is_err());

    let before = p.generation();
    p.replace(&settings(&[], &[("169.254.1.1/32", None)]));
    assert!(p.judge_address(link_local).is_ok() && !reaches(&p, "127.0.0.1", 8080));
    assert_eq!(p.judge_both(&b, 443, true, Some(link_local)), Ok(before + 1));
    assert_eq!(p.generation(), before + 1);

    p.replace(&settings(&[], &[("169.254.1.1/32", None)]));
    assert_eq!(p.generation(), before + 1, "nothing has changed");

    p.replace(&settings(&["https://b.test"], &[]));
    assert_eq!(p.judge_both(&b, 443, true, None).unwrap_err().code, Code::PolicyOriginDenied);
    let a = Host::parse("a.test").unwrap();
    assert_eq!(p.judge_both(&a, 443, true, Some(link_local)).unwrap_err().code, Code::PolicyAddressDenied);
}
