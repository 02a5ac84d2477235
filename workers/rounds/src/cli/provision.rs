//! `rounds provision`: a federation's members, their keys and certificates, and what the hub lets them do.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use pipeline::{admin, clock, connection::Connection, metrics::Metrics};

use crate::provision::{self, Hub, Kind, Plan};

/// The hub's server is there, or it is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Make a federation of hospitals: keys, certificates, and a hub that lets each member do its own work only
#[derive(Args)]
pub struct Provision {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the hub's folder: certificate authority, nats-server configuration, the orchestrator's key
    Hub(NewHub),
    /// Make a key in a file of one's own, and print its public half for the hub
    Key {
        /// The new file with the seed, readable by its owner only
        file: PathBuf,
    },
    /// Let a site in, and make the folder that it carries home
    Site(Member),
    /// Let somebody in who submits jobs, and make the folder to carry home
    Submitter(Member),
    /// Give a member, or the orchestrator, a new key; the old one counts for what it signed before
    Rotate(Member),
    /// Take a member's key away: it can neither connect nor sign
    Revoke(Named),
    /// Give a member, the orchestrator, the admin or the hub itself a new certificate
    Renew(Named),
    /// Tell the running hub of all changes: who was revoked is cut off
    Reload {
        #[command(flatten)]
        hub: Folder,
        /// The hub's server, where it is not dialled under its first host: tls://host:port
        #[arg(long)]
        url: Option<String>,
    },
    /// List the members, their keys and when their certificates end
    List(Folder),
}

#[derive(Args)]
struct NewHub {
    /// The new folder
    folder: PathBuf,
    /// The federation's name
    #[arg(long)]
    name: String,
    /// A name or address under which the hub is dialled; once for each
    #[arg(long = "host", value_name = "HOST", required = true)]
    hosts: Vec<String>,
    /// The address that the server listens on
    #[arg(long, default_value = "0.0.0.0")]
    listen: String,
    /// The port for clients
    #[arg(long, default_value_t = 4222)]
    port: u16,
    /// The port for sites' own nats-servers
    #[arg(long, default_value_t = 7422)]
    leaf_port: u16,
    /// A port for NATS over HTTPS, for sites from which nothing else leads out
    #[arg(long)]
    websocket_port: Option<u16>,
    /// Where sites dial an ingress that ends TLS before that port, as HOST:PORT. Members are then known by their key
    /// alone, and nobody but the ingress may reach the port
    #[arg(long, requires = "websocket_port", value_name = "HOST:PORT")]
    ingress: Option<String>,
    /// Where the server's monitoring listens, as ADDRESS:PORT, for KEDA; it is open to all who reach it
    #[arg(long)]
    monitor: Option<String>,
    /// The folder for the server's streams
    #[arg(long, default_value = "data")]
    store: PathBuf,
    /// Encrypt the streams on disk
    #[arg(long)]
    encrypt: bool,
}

#[derive(Args)]
struct Folder {
    /// The hub's folder
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    hub: PathBuf,
}

#[derive(Args)]
struct Named {
    /// The member's name
    name: String,
    #[command(flatten)]
    hub: Folder,
}

#[derive(Args)]
struct Member {
    #[command(flatten)]
    named: Named,
    /// The public key (U...) of a member that made its key itself and keeps it
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
}

impl Provision {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Hub(hub) => hub.make(),
            Command::Key { file } => {
                println!("{}", provision::write_key(&file)?);
                Ok(())
            }
            Command::Site(member) => member.add(Kind::Site),
            Command::Submitter(member) => member.add(Kind::Submitter),
            Command::Rotate(member) => {
                let folder = member.named.hub()?.rotate(&member.named.name, member.key())?;
                println!("{}", folder.display());
                member.say_next()
            }
            Command::Revoke(named) => {
                named.hub()?.revoke(&named.name)?;
                eprintln!("{}: revoked. {NEXT}", named.name);
                Ok(())
            }
            Command::Renew(named) => {
                println!("{}", named.hub()?.renew(&named.name)?.display());
                Ok(())
            }
            Command::Reload { hub, url } => super::on_runtime(reload(hub, url)),
            Command::List(folder) => list(&folder.open()?),
        }
    }
}

/// What makes a change count.
const NEXT: &str = "It counts from `rounds provision reload` on. Give every member, and the orchestrator where it does \
                    not read it here, the new roster.json";

impl NewHub {
    fn make(self) -> anyhow::Result<()> {
        let Self {
            folder,
            name,
            hosts,
            listen,
            port,
            leaf_port,
            websocket_port,
            ingress,
            monitor,
            store,
            encrypt,
        } = self;
        let plan = Plan {
            name,
            hosts,
            listen,
            port,
            leaf_port,
            websocket_port,
            ingress,
            monitor,
            store,
            encrypted: encrypt,
            admin: String::new(),
        };
        Hub::create(&folder, plan)?;
        let shown = folder.display();
        println!("{shown}");
        eprintln!(
            "Next: cd {shown}/nats && nats-server -c nats.conf\n\
             then: rounds orchestrator {shown}/orchestrator/orchestrator.toml, whose `root` is to be looked at\n\
             then: rounds provision site NAME --hub {shown}, for each site\n\
             {shown}/ca.key and {shown}/admin are the hub's own: they belong on no other machine"
        );
        Ok(())
    }
}

impl Folder {
    fn open(&self) -> anyhow::Result<Hub> {
        Hub::open(&self.hub)
    }
}

impl Named {
    fn hub(&self) -> anyhow::Result<Hub> {
        self.hub.open()
    }
}

impl Member {
    fn key(&self) -> Option<&str> {
        self.public_key.as_deref()
    }

    fn add(&self, kind: Kind) -> anyhow::Result<()> {
        let folder = self.named.hub()?.add(kind, &self.named.name, self.key())?;
        println!("{}", folder.display());
        self.say_next()
    }

    fn say_next(&self) -> anyhow::Result<()> {
        let seed = match self.public_key {
            None => "It holds the member's key: carry it there in secret, and keep no copy",
            Some(_) => "Put the seed of that key beside it",
        };
        eprintln!("{seed}. {NEXT}");
        Ok(())
    }
}

async fn reload(folder: Folder, url: Option<String>) -> anyhow::Result<()> {
    let hub = folder.open()?;
    // Whatever broke off before, the server reads what the roster says.
    hub.store_roster()?;
    let access = hub.admin(url.as_deref())?;
    let connection = Connection::open(&access, "rounds-provision", PATIENCE, &Metrics::new()).await?;
    let reloaded = admin::reload(&connection, &hub.accounts()).await?;
    println!("{}: has read its configuration", reloaded.server);
    for leaf in reloaded.cut_off {
        println!("{leaf}: cut off");
    }
    Ok(())
}

fn list(hub: &Hub) -> anyhow::Result<()> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for member in hub.list() {
        let key = match &member.keys.current[..] {
            [] => "revoked".to_owned(),
            keys => keys.join(" "),
        };
        let end = member.certificate_end.map_or("-".to_owned(), |end| {
            clock::rfc3339(u64::try_from(end).unwrap_or(0))[..10].to_owned()
        });
        let former = match member.keys.former.len() {
            0 => String::new(),
            count => format!(", {count} former"),
        };
        *seen.entry(member.kind.as_str()).or_default() += 1;
        println!(
            "{:<13} {:<24} certificate until {end}  {key}{former}",
            member.kind.as_str(),
            member.name
        );
    }
    let counted: Vec<String> = seen
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    eprintln!("{}: {}", hub.plan.name, counted.join(", "));
    Ok(())
}
