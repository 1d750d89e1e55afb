//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Between two looks at a condition: short against what is measured (milliseconds), long against
/// the cost of a look.
const PAUSE: Duration = Duration::from_millis(1);

/// Polls `look` until it gives a value.
///
/// # Errors
/// After `within`, naming `what` was waited for; at once when a signal comes.
pub fn until<T>(
    what: impl std::fmt::Display,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        interrupt::check()?;
        if let Some(value) = look() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {:.1} s in vain for: {what}", within.as_secs_f32());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Polls `holds` until it is true. See [`until`].
///
/// # Errors
/// As [`until`].
pub fn for_condition(
    what: impl std::fmt::Display,
    within: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<()> {
    until(what, within, || holds().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_for() {
        let error = for_condition("the moon", Duration::from_millis(5), || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn a_value_is_passed_on() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }
}
