//! Moves a connection's bytes: one read, one turn of the load, one write.

use tokio::{
    io::Interest,
    time::{Instant, sleep_until},
};

use super::{Load, Turn, Wire};
use crate::cli::bench::{Error, socket::Socket};

/// Runs `load` on the connection until it is done; it can be run again. Dropping the future stops it between two turns,
/// with the load's counts whole.
pub(in crate::cli::bench) async fn drive(
    socket: &mut Socket,
    wire: &mut Wire,
    load: &mut (dyn Load + '_),
) -> Result<(), Error> {
    let timer = sleep_until(Instant::now());
    tokio::pin!(timer);
    loop {
        let turn = if wire.ready { load.turn(wire, Instant::now())? } else { Turn::Wait };
        let flushed = wire.flush(socket).map_err(Error::Broken)?;
        let interest = if flushed { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        match turn {
            Turn::Done if flushed => return Ok(()),
            Turn::Done | Turn::Wait => socket.ready(interest).await.map_err(Error::Broken)?,
            Turn::Until(at) => {
                timer.as_mut().reset(at);
                tokio::select! {
                    biased;
                    ready = socket.ready(interest) => ready.map_err(Error::Broken)?,
                    () = &mut timer => continue,
                }
            }
        }
        if wire.read(socket)? {
            wire.digest(load, Instant::now())?;
        }
    }
}
