//! Which addresses may be spoken to: the guard against requests into private networks.
//!
//! A host name is resolved once, every address of the answer is checked, and the connection is
//! made to the checked addresses only, so that a second answer cannot slip in. An address
//! literal never meets the resolver and is checked in the URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The longest URL that is taken, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;

/// Why an address is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an `http` or `https` URL with a host.
    #[error("{0}")]
    NotAUrl(String),
    /// Private, loopback, link-local or otherwise not public.
    #[error("{0} is not a public address")]
    NotPublic(String),
    /// The name has no address now.
    #[error("{0} could not be resolved")]
    Unresolved(String),
}

/// Whether private addresses are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses only.
    Public,
    /// Private and loopback ones too.
    Everywhere,
}

/// Parses a URL and checks everything that can be checked without resolving its host.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, reach: Reach) -> Result<Url, AddressError> {
    let wrong = |why: &str| AddressError::NotAUrl(why.to_owned());
    if text.len() > URL_BYTES_MAX {
        return Err(wrong("the URL is too long"));
    }
    let url = Url::parse(text).map_err(|error| AddressError::NotAUrl(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("the scheme must be http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the URL must not hold a user or password"));
    }
    match url.host() {
        None => return Err(wrong("the URL has no host")),
        Some(Host::Ipv4(ip)) => check(IpAddr::V4(ip), reach)?,
        Some(Host::Ipv6(ip)) => check(IpAddr::V6(ip), reach)?,
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let local = name == "localhost" || name.ends_with(".localhost");
            if local && reach == Reach::Public {
                return Err(AddressError::NotPublic(name.to_owned()));
            }
        }
    }
    Ok(url)
}

/// Parses a URL, resolves its host and checks every address.
///
/// # Errors
/// What is wrong with it.
pub async fn check_url(text: &str, reach: Reach) -> Result<Url, AddressError> {
    let url = parse(text, reach)?;
    if reach == Reach::Public
        && let Some(Host::Domain(name)) = url.host()
    {
        resolve(name, reach).await?;
    }
    Ok(url)
}

/// Returns whether an address belongs to the public internet.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(ip),
        },
    }
}

/// The blocks of the IANA special-purpose registry that are not globally reachable.
/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127, _, _)
        | (100, 64..=127, _)
        | (169, 254, _)
        | (172, 16..=31, _)
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (192, 168, _)
        | (198, 18..=19, _)
        | (198, 51, 100)
        | (203, 0, 113)
        | (224..=255, _, _) => true,
        (_, _, _) => false,
    };
    !special
}

/// Only 2000::/3 is global unicast, less its special blocks.
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global = (0x2000..=0x3fff).contains(&a);
    let special = match a {
        0x2001 => b < 0x0200 || b == 0x0db8,
        0x3ffe => true,
        0x3fff => b < 0x1000,
        _ => false,
    };
    global && !special
}

/// Returns the IPv4 address that an IPv6 address leads to: mapped, compatible, NAT64, 6to4.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let from = |high: u16, low: u16| {
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        Ipv4Addr::new(w, x, y, z)
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(from(g, h)),
        (0, 0, 0, 0, 0, 0) => Some(from(g, h)),
        (0x2002, _, _, _, _, _) => Some(from(b, c)),
        (_, _, _, _, _, _) => None,
    }
}

fn check(ip: IpAddr, reach: Reach) -> Result<(), AddressError> {
    match reach {
        Reach::Everywhere => Ok(()),
        Reach::Public if is_public(ip) => Ok(()),
        Reach::Public => Err(AddressError::NotPublic(ip.to_string())),
    }
}

async fn resolve(name: &str, reach: Reach) -> Result<Vec<SocketAddr>, AddressError> {
    let unresolved = || AddressError::Unresolved(name.to_owned());
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|_| unresolved())?;
    checked(name, found.collect(), reach)
}

/// Checks what a name was resolved to: where one address is not public, none of them is used.
fn checked(
    name: &str,
    found: Vec<SocketAddr>,
    reach: Reach,
) -> Result<Vec<SocketAddr>, AddressError> {
    if found.is_empty() {
        return Err(AddressError::Unresolved(name.to_owned()));
    }
    for address in &found {
        check(address.ip(), reach)?;
    }
    Ok(found)
}

/// The resolver of the HTTP client: what it returns has been checked, and nothing else is
/// connected to.
#[derive(Debug, Clone, Copy)]
pub struct GuardedResolver(pub Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = resolve(name.as_str(), reach).await?;
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        let table = [
            ("8.8.8.8", true),
            ("1.1.1.1", true),
            ("172.32.0.1", true),
            ("100.128.0.1", true),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.168.1.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("198.18.0.1", false),
            ("198.51.100.7", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700:4700::1111", true),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("fd12:3456::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("::ffff:10.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b::808:808", true),
            ("64:ff9b:1::1", false),
            ("2002:7f00:1::", false),
            ("2002:808:808::", true),
            ("9.255.255.255", true),
            ("11.0.0.0", true),
            ("126.255.255.255", true),
            ("128.0.0.1", true),
            ("172.15.255.255", true),
            ("192.167.255.255", true),
            ("192.169.0.1", true),
            ("169.253.255.255", true),
            ("100.63.255.255", true),
            ("198.17.255.255", true),
            ("198.20.0.0", true),
            ("223.255.255.255", true),
            ("10.0.0.0", false),
            ("10.255.255.255", false),
            ("100.127.255.255", false),
            ("169.254.0.1", false),
            ("169.254.170.2", false),
            ("172.20.10.1", false),
            ("192.168.255.255", false),
            ("192.0.0.1", false),
            ("192.0.0.192", false),
            ("192.88.99.1", false),
            ("198.19.255.255", false),
            ("239.255.255.255", false),
            ("240.0.0.1", false),
            ("0.1.2.3", false),
            ("2001:4860:4860::8888", true),
            ("2a00:1450:4001::1", true),
            ("::ffff:169.254.169.254", false),
            ("::ffff:192.168.0.1", false),
            ("::ffff:0:0", false),
            ("::127.0.0.1", false),
            ("::10.0.0.1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::a00:1", false),
            ("2002:a9fe:a9fe::", false),
            ("2002:c0a8:1::", false),
            ("2001:0:4136:e378::1", false),
            ("2001:10::1", false),
            ("2001:20::1", false),
            ("3fff::1", false),
            ("3ffe::1", false),
            ("5f00::1", false),
            ("100::1", false),
            ("fe80::a9fe:a9fe", false),
            ("febf::1", false),
            ("fdff:ffff::1", false),
            ("fd00:ec2::254", false),
            ("ff00::1", false),
            ("ff0e::1", false),
        ];
        for (text, public) in table {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn a_url_in_disguise_is_seen_through() {
        let refused = [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]:80/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://169.254.169.254/latest/meta-data",
            "https://user:pass@example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://127.0.0.1./",
            "http://0/",
            "http://0x7f000001/",
            "http://017700000001/",
            "http://127.0.1/",
            "http://10.1/",
            "http://3232235777/",
            "http://0xa9fea9fe/",
            "http://[::]/",
            "http://[::ffff:7f00:1]/",
            "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
            "http://[64:ff9b::7f00:1]/",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "http://\u{2460}\u{2461}\u{2466}.0.0.1/",
            "http://127\u{3002}0\u{3002}0\u{3002}1/",
            "http:127.0.0.1",
            "http:/\\/127.0.0.1/",
            "http:\\\\127.0.0.1\\",
            "http://example.com@127.0.0.1/",
            "http://%31%32%37.0.0.1/",
            "http://\t127.0.0.1/",
            "http://localhost%00/",
            "http://LocalHost:4620/",
            "gopher://127.0.0.1:6379/_FLUSHALL",
            "javascript:alert(1)",
            "unix:/run/docker.sock",
            "http://",
            "http:///",
            "example.com",
            "",
        ];
        for text in refused {
            assert!(parse(text, Reach::Public).is_err(), "{text}");
        }
        assert!(parse("https://example.com/hook", Reach::Public).is_ok());
        assert!(parse("http://127.0.0.1:9100", Reach::Everywhere).is_ok());
        assert!(parse("http://localhost:9100", Reach::Everywhere).is_ok());
    }

    /// A name that is bound anew between two questions is looked at with each: there is no answer
    /// that was checked once and is used later.
    #[test]
    fn one_private_address_among_public_ones_spoils_them_all() {
        let of = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
        };
        let public = of(&["8.8.8.8", "2606:4700:4700::1111"]);
        assert_eq!(checked("a", public.clone(), Reach::Public), Ok(public));
        for private in ["127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1"] {
            for mixed in [of(&["8.8.8.8", private]), of(&[private, "8.8.8.8"]), of(&[private])] {
                let refused = checked("a", mixed, Reach::Public);
                assert!(matches!(refused, Err(AddressError::NotPublic(_))), "{private}");
            }
        }
        let none = checked("a", Vec::new(), Reach::Everywhere);
        assert!(matches!(none, Err(AddressError::Unresolved(_))));
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused() {
        let error = resolve("localhost", Reach::Public).await.unwrap_err();
        assert!(matches!(error, AddressError::NotPublic(_)), "{error}");
    }
}
