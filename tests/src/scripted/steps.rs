//! Scripts that are lists of steps.

use std::io;
use std::time::Duration;

use super::Talk;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads a whole request and executes it.
    Execute,
    /// Reads a request's head, and nothing of its body.
    ReadHead,
    /// Sends these bytes.
    Send(&'static str),
    /// Sends the first text, then the second so many times, then the third.
    SendMany(&'static str, &'static str, usize, &'static str),
    /// Sends these bytes one by one, a few milliseconds apart.
    Drip(&'static str),
    /// Waits until the test opens the gate.
    Gate,
    /// Waits until the peer ends the connection.
    AwaitEnd,
    /// Closes the connection with a FIN.
    Close,
    /// Closes it with a reset.
    Reset,
}

/// Between the bytes of [`Step::Drip`].
const DRIP: Duration = Duration::from_millis(5);

/// Plays the steps, again and again until the connection ends.
///
/// # Errors
/// If the connection breaks.
pub fn play(steps: &[Step], talk: &mut Talk) -> io::Result<()> {
    loop {
        for step in steps {
            match step {
                Step::Execute => match talk.read()? {
                    Some(request) => talk.execute(&request),
                    None => return Ok(()),
                },
                Step::ReadHead => {
                    if talk.read_head()?.is_none() {
                        return Ok(());
                    }
                }
                Step::Send(text) => talk.send(text.as_bytes())?,
                Step::SendMany(first, again, times, last) => {
                    talk.send(format!("{first}{}{last}", again.repeat(*times)).as_bytes())?;
                }
                Step::Drip(text) => talk.drip(text.as_bytes(), DRIP)?,
                Step::Gate => talk.pass_gate(),
                Step::AwaitEnd => return talk.await_end(),
                Step::Close => return Ok(()),
                Step::Reset => return talk.end_by_reset(),
            }
        }
    }
}
