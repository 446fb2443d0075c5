//! stub
use crate::decision::{Limit, Origin};

/// `[limits.account]`: what holds for every account that says nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Messages that one account may send in any hour, and where that is configured.
    pub messages_per_hour: (Limit, Option<Origin>),
    /// Recipients that one account may send to in any day, and where that is configured.
    pub recipients_per_day: (Limit, Option<Origin>),
}
