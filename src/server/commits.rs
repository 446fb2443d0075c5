//! Commits that are under way, by account: whoever contains an account waits for them, so that nothing of it comes into
//! the queue afterwards.

use std::collections::HashMap;

use tokio::sync::watch;

/// How many there are of each account that has any.
#[derive(Debug, Default)]
pub(super) struct Commits(watch::Sender<HashMap<String, usize>>);

impl Commits {
    /// One begins, and ends when what this gives is dropped. To be called before it is asked whether the account is
    /// contained.
    pub(super) fn begin(&self, account: &str) -> UnderWay<'_> {
        self.0.send_modify(|commits| {
            *commits.entry(account.to_owned()).or_default() += 1;
        });
        UnderWay {
            commits: self,
            account: account.to_owned(),
        }
    }

    /// Whether there are any of this account.
    pub(super) fn has(&self, account: &str) -> bool {
        self.0.borrow().contains_key(account)
    }

    /// Waits until there are none of this account.
    pub(super) async fn ended(&self, account: &str) {
        let mut commits = self.0.subscribe();
        // The sender is ours, so it is there.
        let _ = commits
            .wait_for(|commits| !commits.contains_key(account))
            .await;
    }
}

/// A commit that is under way.
pub(super) struct UnderWay<'c> {
    commits: &'c Commits,
    account: String,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.commits.0.send_modify(|commits| {
            if let Some(count) = commits.get_mut(&self.account) {
                *count -= 1;
                if *count == 0 {
                    commits.remove(&self.account);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn one_waits_for_those_of_the_account_and_no_others() {
        let commits = Commits::default();
        let (first, second) = (commits.begin("a"), commits.begin("a"));
        let other = commits.begin("b");
        let mut ended = Box::pin(commits.ended("a"));
        let mut is_over = async || {
            std::future::poll_fn(|context| Poll::Ready(ended.as_mut().poll(context).is_ready()))
                .await
        };
        assert!(!is_over().await);
        drop(first);
        assert!(commits.has("a") && !is_over().await);
        drop(second);
        assert!(is_over().await);
        assert!(!commits.has("a") && commits.has("b"));
        drop(other);
        assert!(commits.0.borrow().is_empty());
    }
}
