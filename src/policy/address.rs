//! What an address is, by the IANA special-purpose registries (RFC 6890 and what was registered since), the multicast
//! registries, and the addresses where clouds hand out credentials. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Category {
    /// Globally reachable, or nothing special.
    Global,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// Unique local, fc00::/7 (RFC 4193).
    UniqueLocal,
    /// Shared address space, 100.64.0.0/10 (RFC 6598).
    Shared,
    /// 198.18.0.0/15 (RFC 2544); VPNs use it.
    Benchmarking,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Where a cloud hands out credentials.
    Metadata,
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// Reserved, deprecated or for a protocol's own use.
    Reserved,
    /// An IPv6 address around an IPv4 address that means nothing to the translator, such as its own loopback.
    Embedded,
}

impl Category {
    /// The category of `ip`. If an IPv4 address is embedded in an IPv6 address, the worse of the two.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => v4(ip),
            IpAddr::V6(ip) => {
                let outside = v6(ip);
                // `::1` has the form of a compatible address, and is none.
                if !outside.is_allowed_locally() || outside == Self::Loopback {
                    return outside;
                }
                for inside in embedded(IpAddr::V6(ip)).map(Self::of) {
                    match inside {
                        // Another host's loopback: no one has a reason to go there.
                        Self::Loopback => return Self::Embedded,
                        refused if !refused.is_allowed_locally() => return refused,
                        _ => {}
                    }
                }
                outside
            }
        }
    }

    /// Whether profile `local` lets it be reached: the caller could do so without egret.
    #[must_use]
    pub fn is_allowed_locally(self) -> bool {
        match self {
            Self::Global | Self::Loopback | Self::Private | Self::UniqueLocal | Self::Shared | Self::Benchmarking => {
                true
            }
            Self::LinkLocal
            | Self::Metadata
            | Self::Unspecified
            | Self::Multicast
            | Self::Broadcast
            | Self::Documentation
            | Self::Reserved
            | Self::Embedded => false,
        }
    }

    /// With its article, to stand after "the address is".
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Global => "a global address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::UniqueLocal => "a unique local address",
            Self::Shared => "a shared (carrier-grade NAT) address",
            Self::Benchmarking => "a benchmarking address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "that of a cloud's metadata service",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "a documentation address",
            Self::Reserved => "a reserved address",
            Self::Embedded => "a translated address that leads to a loopback address",
        }
    }
}

/// First match wins: more specific entries stand first. What is in no entry is global.
const V4: &[(u32, u32, Category)] = &[
    net4([169, 254, 169, 254], 32, Category::Metadata), // AWS, Azure, GCP and most others
    net4([169, 254, 170, 2], 32, Category::Metadata),   // Amazon ECS
    net4([169, 254, 170, 23], 32, Category::Metadata),  // Amazon EKS
    net4([100, 100, 100, 200], 32, Category::Metadata), // Alibaba
    net4([168, 63, 129, 16], 32, Category::Metadata),   // Azure wire server
    net4([192, 0, 0, 192], 32, Category::Metadata),     // Oracle
    net4([0, 0, 0, 0], 8, Category::Unspecified),
    net4([10, 0, 0, 0], 8, Category::Private),
    net4([100, 64, 0, 0], 10, Category::Shared),
    net4([127, 0, 0, 0], 8, Category::Loopback),
    net4([169, 254, 0, 0], 16, Category::LinkLocal),
    net4([172, 16, 0, 0], 12, Category::Private),
    net4([192, 0, 0, 9], 32, Category::Global),  // RFC 7723
    net4([192, 0, 0, 10], 32, Category::Global), // RFC 8155
    net4([192, 0, 0, 0], 24, Category::Reserved),
    net4([192, 0, 2, 0], 24, Category::Documentation),
    net4([192, 88, 99, 0], 24, Category::Reserved), // 6to4 relay anycast, deprecated by RFC 7526
    net4([192, 168, 0, 0], 16, Category::Private),
    net4([198, 18, 0, 0], 15, Category::Benchmarking),
    net4([198, 51, 100, 0], 24, Category::Documentation),
    net4([203, 0, 113, 0], 24, Category::Documentation),
    net4([224, 0, 0, 0], 4, Category::Multicast),
    net4([255, 255, 255, 255], 32, Category::Broadcast),
    net4([240, 0, 0, 0], 4, Category::Reserved),
];

/// First match wins. What is in no entry is reserved: IANA has given out 2000::/3 and nothing else.
const V6: &[(u128, u128, Category)] = &[
    net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Category::Metadata), // AWS
    net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, Category::Metadata),  // Amazon EKS
    net6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Category::Metadata),  // GCP
    net6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, Category::Metadata),   // Scaleway
    net6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Category::Metadata), // Oracle
    net6([0; 8], 128, Category::Unspecified),
    net6([0, 0, 0, 0, 0, 0, 0, 1], 128, Category::Loopback),
    // NAT64: the embedded address decides.
    net6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Category::Global),
    net6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Category::Global),
    net6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, Category::Global), // RFC 7723
    net6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, Category::Global), // RFC 8155
    net6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, Category::Global), // RFC 9665
    net6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Category::Global),  // Teredo: the embedded addresses decide
    net6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, Category::Global),  // AMT, RFC 7450
    net6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, Category::Global), // AS112, RFC 7535
    net6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, Category::Global), // ORCHIDv2, RFC 7343
    net6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, Category::Global), // Drone remote id, RFC 9374
    net6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Category::Reserved), // with 2001:2::/48, benchmarking
    net6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Category::Documentation),
    net6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Category::Documentation), // RFC 9637
    net6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Category::Global), // with 6to4 (2002::/16): the embedded address decides
    net6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Category::UniqueLocal),
    net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Category::LinkLocal),
    net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Category::Multicast),
];

const fn net4(octets: [u8; 4], prefix: u32, category: Category) -> (u32, u32, Category) {
    (u32::from_be_bytes(octets), u32::MAX << (32 - prefix), category)
}

const fn net6(segments: [u16; 8], prefix: u32, category: Category) -> (u128, u128, Category) {
    let [a, b, c, d, e, f, g, h] = segments;
    (Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(), u128::MAX << (128 - prefix), category)
}

fn v4(ip: Ipv4Addr) -> Category {
    let found = V4.iter().find(|(net, mask, _)| ip.to_bits() & mask == *net);
    found.map_or(Category::Global, |(_, _, category)| *category)
}

fn v6(ip: Ipv6Addr) -> Category {
    let found = V6.iter().find(|(net, mask, _)| ip.to_bits() & mask == *net);
    found.map_or(Category::Reserved, |(_, _, category)| *category)
}

/// The IPv4 addresses that a packet to `ip` may end up at.
pub(super) fn embedded(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let IpAddr::V6(ip) = ip else { return [None; 3].into_iter().flatten() };
    let bits = ip.to_bits();
    // The 32 bits that begin at `at`.
    let cut = |at: u32| Some(IpAddr::V4(Ipv4Addr::from_bits((bits << at >> 96) as u32)));
    let last = cut(96);
    let found = match ip.segments() {
        // Mapped (RFC 4291 section 2.5.5.2) and compatible (2.5.5.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => [last, None, None],
        // NAT64 by the well-known prefix (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [last, None, None],
        // NAT64 within a network (RFC 8215), whose operator chooses the length of the prefix. /48 and /56 leave the
        // last 32 bits empty, which reads as 0.0.0.0; /64 leaves 24 empty and its address is looked at besides.
        [0x64, 0xff9b, 1, ..] if bits & 0xff_ffff == 0 => [last, cut(72), None],
        [0x64, 0xff9b, 1, ..] => [last, None, None],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [cut(16), None, None],
        // Teredo (RFC 4380 section 4): the server, and the client with its bits turned round.
        [0x2001, 0, ..] => [cut(32), Some(IpAddr::V4(Ipv4Addr::from_bits(!(bits as u32)))), None],
        _ => [None; 3],
    };
    // ISATAP (RFC 5214 section 6.1) is a form of the last 64 bits, under any prefix.
    let isatap = matches!(ip.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, ..]).then_some(last).flatten();
    [found[0], found[1], isatap].into_iter().flatten()
}
