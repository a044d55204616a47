//! A program in Rust that is registered while it runs, and knows where another one is:
//! `cargo run --example client --no-default-features --features client -- http://127.0.0.1:6624 orders users`.

use std::{env, error::Error, time::Duration};

use onair::client::{Client, LeaseEvent, Pick, Registration};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut argument = || arguments.next().ok_or("say where the registry is, who this is, and whom it calls");
    let (registry, own, other) = (argument()?, argument()?, argument()?);
    let client = Client::connect(&registry)?;

    // Listens first, so that whoever finds it reaches it.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let registration = Registration::new(&own).host("127.0.0.1").port(listener.local_addr()?.port()).version("1.0.0");
    let mut joined = client.join(registration).await?;
    println!("registered as {}", joined.instance().id);

    let mut others = client.service(&other);
    loop {
        tokio::select! {
            changed = others.changed() => {
                changed?;
                match others.pick(Pick::RoundRobin) {
                    Some(instance) => println!("{other} is at {}, one of {}", instance.url, others.instances().all().len()),
                    None => println!("{other} is nowhere"),
                }
            }
            event = joined.event() => match event {
                Some(LeaseEvent::Registered { .. }) => println!("registered again"),
                Some(LeaseEvent::Failing(failed)) => println!("{failed}"),
                Some(LeaseEvent::Recovered { outage }) => println!("the registry is back after {outage:?}"),
                Some(LeaseEvent::Superseded { .. }) | None => return Err("another program has taken its place".into()),
                Some(event) => println!("{event:?}"),
            },
            connection = listener.accept() => drop(connection?),
            signal = tokio::signal::ctrl_c() => {
                signal?;
                break;
            }
        }
    }

    // Out of traffic first; who watches knows by the time this returns. Then away.
    joined.drain(Duration::from_secs(2)).await?;
    joined.leave().await?;
    Ok(())
}
