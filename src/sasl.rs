//! stub
/// A SASL mechanism that gatepost has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// LOGIN.
    Login,
    /// PLAIN (RFC 4616).
    Plain,
}

impl Mechanism {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Login, Self::Plain];

    /// The name on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
        }
    }

    /// The mechanism of this name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }
}
