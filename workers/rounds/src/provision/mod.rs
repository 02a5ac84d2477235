//! The hub's folder: who belongs to a federation, and what its nats-server lets them do.
//!
//!     federation.toml                        what was chosen when the federation was made
//!     roster.json                            who belongs to it: the public keys
//!     ca.pem  ca.key                         its certificate authority
//!     nats/                                  what its nats-server reads, written anew from the roster
//!     orchestrator/  admin/                  keys, certificates, settings of the hub's own parts
//!     sites/NAME/  submitters/NAME/          what each member carries home
//!
//! Everything in `nats` follows from the first two: a command that broke off is put right by the next.

mod bundle;
pub mod certificates;
pub mod files;
mod keys;
mod list;
mod nats_conf;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use pipeline::connection::Access as Reach;
use schemas::{
    names,
    roster::{Keys, Roster},
};
use serde::{Deserialize, Serialize};

use bundle::Bundle;
pub use bundle::Kind;
use certificates::Authority;
use files::{Access, make_folder, read, remove, write};
pub use keys::write_key;
use keys::{check_public, new_key};

/// What was chosen when a federation was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The federation's name.
    pub name: String,
    /// The names and addresses under which the hub is dialled.
    pub hosts: Vec<String>,
    /// The address that its server listens on.
    pub listen: String,
    /// The port for clients.
    pub port: u16,
    /// The port for sites' own nats-servers.
    pub leaf_port: u16,
    /// The port for NATS over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket_port: Option<u16>,
    /// Where an ingress that ends TLS before the websocket port is dialled, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Where the server's monitoring listens, `address:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<String>,
    /// The folder for streams, from the folder in which the server is started.
    pub store: PathBuf,
    /// Whether streams are encrypted on disk.
    pub encrypted: bool,
    /// The public key of who tells the server that its members have changed.
    #[serde(default)]
    pub admin: String,
}

/// The hub's folder.
pub struct Hub {
    folder: PathBuf,
    /// What was chosen.
    pub plan: Plan,
    /// Who belongs to the federation.
    pub roster: Roster,
}

impl Hub {
    /// Makes a federation in a folder.
    ///
    /// # Errors
    /// There is one in it already.
    pub fn create(folder: &Path, mut plan: Plan) -> anyhow::Result<Self> {
        names::check_token("name", &plan.name)?;
        ensure!(!plan.hosts.is_empty(), "host: expected at least one");
        let file = folder.join("federation.toml");
        ensure!(
            !file.exists(),
            "{}: there is a federation already; `rounds provision site` adds to it",
            file.display()
        );
        make_folder(&folder.join("nats"))?;
        let authority = Authority::create(folder, &plan.name)?;
        let (admin, admin_seed) = new_key()?;
        let (orchestrator, orchestrator_seed) = new_key()?;
        plan.admin = admin;
        let mut hub = Self {
            folder: folder.to_owned(),
            plan,
            roster: Roster::default(),
        };
        hub.roster.orchestrators.current.push(orchestrator.clone());
        if hub.plan.encrypted {
            let (_, secret) = new_key()?;
            let conf = format!("cipher: chachapoly\nkey: {secret:?}\n");
            write(&folder.join("nats/storage-key.conf"), &conf, Access::Owner)?;
        }
        hub.certify_server(&authority)?;
        hub.bundle(
            &authority,
            Kind::Admin,
            "admin",
            &hub.plan.admin,
            Some(&admin_seed),
        )?;
        let seed = Some(&*orchestrator_seed);
        hub.bundle(
            &authority,
            Kind::Orchestrator,
            names::ORCHESTRATOR,
            &orchestrator,
            seed,
        )?;
        hub.store_roster()?;
        // The last: what broke off before can be done again.
        write(&file, &toml::to_string(&hub.plan)?, Access::All)?;
        Ok(hub)
    }

    /// Opens the folder of a federation.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("federation.toml");
        let text = read(&file).context("expected a folder that `rounds provision hub` made")?;
        let plan: Plan = toml::from_str(&text).with_context(|| format!("{}", file.display()))?;
        let file = folder.join("roster.json");
        let roster =
            schemas::parse(read(&file)?.as_bytes()).with_context(|| format!("{}", file.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            plan,
            roster,
        })
    }

    /// Lets a member in. `public` is its key, where it made that itself. Gives the folder that it carries home.
    ///
    /// # Errors
    /// The name is taken, or is none.
    pub fn add(&mut self, kind: Kind, name: &str, public: Option<&str>) -> anyhow::Result<PathBuf> {
        names::check_site(kind.as_str(), name)?;
        if let Some((taken, _)) = self.find(name) {
            bail!(
                "{} {name}: is in roster.json already; `rounds provision rotate {name}` gives it a new key",
                taken.as_str()
            );
        }
        let (public, seed) = self.key(public)?;
        let keys = Keys {
            current: vec![public.clone()],
            former: Vec::new(),
        };
        match kind {
            Kind::Site => self.roster.sites.insert(name.to_owned(), keys),
            Kind::Submitter => self.roster.submitters.insert(name.to_owned(), keys),
            Kind::Orchestrator | Kind::Admin => bail!("{}: there is one already", kind.as_str()),
        };
        let authority = Authority::open(&self.folder, &self.plan.name)?;
        let folder = self.bundle(&authority, kind, name, &public, seed.as_deref())?;
        self.store_roster()?;
        Ok(folder)
    }

    /// Gives a member a new key and certificate; the old key becomes a former one. Gives its folder.
    ///
    /// # Errors
    /// There is no such member.
    pub fn rotate(&mut self, name: &str, public: Option<&str>) -> anyhow::Result<PathBuf> {
        let (public, seed) = self.key(public)?;
        let (kind, keys) = self.member(name)?;
        keys.former.append(&mut keys.current);
        keys.current.push(public.clone());
        let authority = Authority::open(&self.folder, &self.plan.name)?;
        let folder = self.bundle(&authority, kind, name, &public, seed.as_deref())?;
        if seed.is_none() {
            remove(&folder.join(format!("{}.nk", kind.as_str())))?;
        }
        self.store_roster()?;
        Ok(folder)
    }

    /// Takes a member's keys away: they can neither connect nor sign, and what they signed stands.
    ///
    /// # Errors
    /// There is no such member.
    pub fn revoke(&mut self, name: &str) -> anyhow::Result<()> {
        let (_, keys) = self.member(name)?;
        ensure!(
            !keys.current.is_empty(),
            "{name}: has no key that could be revoked"
        );
        keys.former.append(&mut keys.current);
        self.store_roster()
    }

    /// Gives the hub's server, which is called `hub`, or a member a new certificate; the key of its nkey stays.
    ///
    /// # Errors
    /// There is no such member, or its key was revoked.
    pub fn renew(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        let authority = Authority::open(&self.folder, &self.plan.name)?;
        if name == "hub" {
            self.certify_server(&authority)?;
            return Ok(self.folder.join("nats"));
        }
        if name == "admin" {
            return self.bundle(&authority, Kind::Admin, name, &self.plan.admin, None);
        }
        let (kind, keys) = self.member(name)?;
        let key = keys.current.last().cloned();
        let key = key.with_context(|| format!("{name}: its key was revoked"))?;
        self.bundle(&authority, kind, name, &key, None)
    }

    /// The accounts of all keys that may connect.
    pub fn accounts(&self) -> BTreeSet<String> {
        let Roster {
            sites, submitters, ..
        } = &self.roster;
        let keys = sites.values().chain(submitters.values());
        keys.flat_map(|keys| keys.current.iter().cloned()).collect()
    }

    /// How the hub's own administrator reaches its server.
    pub fn admin(&self, url: Option<&str>) -> anyhow::Result<Reach> {
        let folder = self.folder.join("admin");
        let host = self.plan.hosts.first().context("federation.toml: hosts: none")?;
        Ok(Reach {
            url: url.map_or_else(|| format!("tls://{host}:{}", self.plan.port), str::to_owned),
            nkey: Some(read(&folder.join("admin.nk"))?.trim().to_owned()),
            root_certificates: Some(folder.join("ca.pem")),
            client_certificate: Some((folder.join("admin.pem"), folder.join("admin.key"))),
            tls_first: true,
            ..Reach::default()
        })
    }

    /// Writes the roster, and what follows from it.
    pub fn store_roster(&self) -> anyhow::Result<()> {
        let roster = self.roster_text()?;
        write(&self.folder.join("roster.json"), &roster, Access::All)?;
        for member in self.list() {
            let copy = self.folder_of(member.kind, &member.name).join("roster.json");
            if copy.exists() {
                write(&copy, &roster, Access::All)?;
            }
        }
        let nats = self.folder.join("nats");
        write(
            &nats.join("nats.conf"),
            &nats_conf::server(&self.plan),
            Access::All,
        )?;
        let members = nats_conf::members(&self.plan, &self.roster);
        write(&nats.join("members.conf"), &members, Access::All)
    }

    fn roster_text(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(&self.roster)?))
    }

    fn certify_server(&self, authority: &Authority) -> anyhow::Result<()> {
        let nats = self.folder.join("nats");
        let server = authority.server(&self.plan.hosts)?;
        write(&nats.join("server.pem"), &server.certificate, Access::All)?;
        write(&nats.join("server.key"), &server.key, Access::Owner)?;
        write(&nats.join("ca.pem"), authority.certificate(), Access::All)
    }

    fn bundle(
        &self,
        authority: &Authority,
        kind: Kind,
        name: &str,
        key: &str,
        seed: Option<&str>,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.folder_of(kind, name);
        Bundle {
            plan: &self.plan,
            kind,
            name,
            key,
            seed,
            certified: &authority.member(name)?,
            authority: authority.certificate(),
            roster: &self.roster_text()?,
        }
        .write(&folder)?;
        Ok(folder)
    }

    fn folder_of(&self, kind: Kind, name: &str) -> PathBuf {
        match kind {
            Kind::Site => self.folder.join("sites").join(name),
            Kind::Submitter => self.folder.join("submitters").join(name),
            Kind::Orchestrator | Kind::Admin => self.folder.join(kind.as_str()),
        }
    }

    /// The key that a member brought, or a new one with its seed.
    fn key(&self, public: Option<&str>) -> anyhow::Result<(String, Option<String>)> {
        let Some(public) = public else {
            let (public, seed) = new_key()?;
            return Ok((public, Some(seed)));
        };
        check_public(public)?;
        let Roster {
            sites,
            submitters,
            orchestrators,
        } = &self.roster;
        let all = sites.iter().chain(submitters).map(|(name, keys)| (&**name, keys));
        for (name, keys) in all.chain([(names::ORCHESTRATOR, orchestrators)]) {
            ensure!(
                !keys.all().any(|key| key == public),
                "{public}: is or was a key of {name}; a new one is needed"
            );
        }
        Ok((public.to_owned(), None))
    }

    fn find(&mut self, name: &str) -> Option<(Kind, &mut Keys)> {
        let Roster {
            sites,
            submitters,
            orchestrators,
        } = &mut self.roster;
        if name == names::ORCHESTRATOR {
            return Some((Kind::Orchestrator, orchestrators));
        }
        let site = sites.get_mut(name).map(|keys| (Kind::Site, keys));
        site.or_else(|| submitters.get_mut(name).map(|keys| (Kind::Submitter, keys)))
    }

    fn member(&mut self, name: &str) -> anyhow::Result<(Kind, &mut Keys)> {
        self.find(name)
            .with_context(|| format!("{name}: no member of roster.json; `rounds provision list` lists them"))
    }
}

#[cfg(test)]
mod tests;
