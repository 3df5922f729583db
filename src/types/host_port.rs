//! Addresses as people write them: a host and a port.
//!
//! Owns their one grammar, for flags and callers alike. Must never look a name up.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A host and a port: `name:4711`, `192.0.2.1:4711`, `[2001:db8::1]:4711`, `:4711`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// A name or an address, without brackets. May be empty; an IPv6 address may have a zone (`%eth0`).
    pub host: String,
    /// 0..=65535.
    pub port: u16,
}

/// What is wrong with the text of a [`HostPort`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostPortError {
    /// There is none.
    #[error("the port is missing, as in \"{0}:4711\"")]
    NoPort(String),
    /// Nothing but a number.
    #[error("the host is missing: \":{0}\" is this host")]
    NoHost(String),
    /// What stands in the port's place.
    #[error("{0:?} is no port: it takes a number up to 65535")]
    Port(String),
    /// Nobody listens at port 0.
    #[error("nothing can be connected to at port 0")]
    PortZero,
    /// Which colon would begin the port?
    #[error(
        "an IPv6 address goes into brackets, with the port behind them, like \"[2001:db8::1]:4711\""
    )]
    Brackets,
    /// Brackets around what is no IPv6 address.
    #[error("{0:?} is no IPv6 address")]
    Address(String),
    /// A URL.
    #[error("a host and a port are wanted, without {0:?} before them")]
    Scheme(String),
    /// White space, a path, or what else no name has.
    #[error("{0:?} is no name of a host")]
    Name(String),
    /// It could be on any link.
    #[error("a link-local address needs its device, as in \"[{0}%eth0]:4711\"")]
    NoZone(Ipv6Addr),
}

impl HostPort {
    /// Reads the address of a server to connect to. Without a host it is this host; port 0 is refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_server(text: &str) -> Result<HostPort, HostPortError> {
        let HostPort { mut host, port } = text.parse()?;
        if host.is_empty() {
            host.push_str("localhost");
        }
        if port == 0 { Err(HostPortError::PortZero) } else { Ok(HostPort { host, port }) }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<HostPort, HostPortError> {
        let (host, port) = split(text)?;
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let number = port.parse().ok().filter(|_| is_number);
        let port = number.ok_or_else(|| HostPortError::Port(port.to_owned()))?;
        let host = match ipv6(host) {
            Some((address, "")) if address.is_unicast_link_local() => {
                return Err(HostPortError::NoZone(address));
            }
            // One address has one text, however it was written.
            Some((address, zone)) => format!("{address}{zone}"),
            None => host.to_owned(),
        };
        Ok(HostPort { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The host without its brackets, and what should be the port.
fn split(text: &str) -> Result<(&str, &str), HostPortError> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(HostPortError::Scheme(format!("{scheme}://")));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or(HostPortError::Brackets)?;
        if ipv6(host).is_none() {
            return Err(HostPortError::Address(host.to_owned()));
        }
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if behind.is_empty() => Err(HostPortError::NoPort(text.to_owned())),
            None => Err(HostPortError::Port(behind.to_owned())),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        return Err(match text {
            "" => HostPortError::NoPort("[::1]".to_owned()),
            _ if is_number => HostPortError::NoHost(text.to_owned()),
            _ => HostPortError::NoPort(text.to_owned()),
        });
    };
    if host.contains(':') {
        return Err(HostPortError::Brackets);
    }
    if host.contains(|c: char| c.is_whitespace() || "/?#@,[]%\"'".contains(c)) {
        return Err(HostPortError::Name(host.to_owned()));
    }
    Ok((host, port))
}

/// An IPv6 address and its zone (`%eth0`), which may be empty.
fn ipv6(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, zone) = text.split_at(text.find('%').unwrap_or(text.len()));
    (zone != "%").then(|| address.parse().ok())?.map(|address| (address, zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right() {
        for (text, host, port) in [
            ("rr.example:4711", "rr.example", 4711),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:DB8:0::1]:65535", "2001:db8::1", 65_535),
            ("[FE80:0::1%eth0]:4711", "fe80::1%eth0", 4711),
            (":4711", "", 4711),
            ("[::]:0", "::", 0),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed, HostPort { host: host.to_owned(), port }, "{text}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        for (text, words) in [
            ("", "the port is missing, as in \"[::1]:4711\""),
            ("foo", "the port is missing, as in \"foo:4711\""),
            ("[::1]", "the port is missing, as in \"[::1]:4711\""),
            ("4711", "the host is missing: \":4711\" is"),
            ("foo:", "\"\" is no port"),
            ("foo:http", "\"http\" is no port"),
            ("foo:65536", "\"65536\" is no port"),
            ("foo:+1", "\"+1\" is no port"),
            ("[::1]:-1", "\"-1\" is no port"),
            ("[::1]4711", "\"4711\" is no port"),
            ("[::1]:4711/", "\"4711/\" is no port"),
            ("::1", "brackets"),
            ("::1:4711", "brackets"),
            ("2001:db8::1", "brackets"),
            ("[::1:4711", "brackets"),
            ("[192.0.2.1]:4711", "\"192.0.2.1\" is no IPv6 address"),
            ("[]:4711", "\"\" is no IPv6 address"),
            ("[fe80::1%]:4711", "is no IPv6 address"),
            ("[fe80::1]:4711", "as in \"[fe80::1%eth0]:4711\""),
            ("http://foo:4711", "without \"http://\""),
            ("a b:4711", "\"a b\" is no name"),
            ("foo/bar:4711", "\"foo/bar\" is no name"),
        ] {
            let error = text.parse::<HostPort>().expect_err(text);
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert!(HostPort::of_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn servers() {
        let server = |text| HostPort::of_server(text).map(|server| server.to_string());
        assert_eq!(server(":4711").as_deref(), Ok("localhost:4711"));
        assert_eq!(server("[::]:4711").as_deref(), Ok("[::]:4711"));
        assert_eq!(server("[0::1]:1"), server("[::1]:1"));
        assert_eq!(server("foo:0"), Err(HostPortError::PortZero));
        assert_eq!(server("[fe80::1%eth0]:1").as_deref(), Ok("[fe80::1%eth0]:1"));
    }
}
