//! What a member carries home: its key, its certificate, and settings ready to edit.

use std::path::Path;

use pipeline::rights::API_PREFIX;

use super::{
    Plan,
    certificates::Certified,
    files::{Access, make_folder, write},
};

/// What kind of member a folder is for. Its files are named for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with data.
    Site,
    /// One who submits jobs.
    Submitter,
    /// The orchestrators together.
    Orchestrator,
    /// Who tells the hub's server that its members have changed.
    Admin,
}

impl Kind {
    /// Its one spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Site => "site",
            Kind::Submitter => "submitter",
            Kind::Orchestrator => "orchestrator",
            Kind::Admin => "admin",
        }
    }
}

/// A member's folder.
pub struct Bundle<'a> {
    /// The federation.
    pub plan: &'a Plan,
    /// Who it is for.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Its public key.
    pub key: &'a str,
    /// The seed of that key; none where the member made it and keeps it.
    pub seed: Option<&'a str>,
    /// Its certificate.
    pub certified: &'a Certified,
    /// The authority's certificate.
    pub authority: &'a str,
    /// Who belongs to the federation.
    pub roster: &'a str,
}

impl Bundle<'_> {
    /// Writes the folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        make_folder(folder)?;
        let kind = self.kind.as_str();
        let file = |ending: &str| folder.join(format!("{kind}.{ending}"));
        if let Some(seed) = self.seed {
            write(&file("nk"), &format!("{seed}\n"), Access::Owner)?;
        }
        write(&file("pem"), &self.certified.certificate, Access::All)?;
        write(&file("key"), &self.certified.key, Access::Owner)?;
        write(&folder.join("ca.pem"), self.authority, Access::All)?;
        if self.kind == Kind::Admin {
            return Ok(());
        }
        write(&folder.join("roster.json"), self.roster, Access::All)?;
        // What was edited stays.
        let settings = file("toml");
        if !settings.exists() {
            write(&settings, &self.settings(), Access::All)?;
        }
        if self.kind == Kind::Site {
            write(&folder.join("nats-leaf.conf"), &self.leaf(), Access::All)?;
            if let Some(https) = self.leaf_https() {
                write(&folder.join("nats-leaf-https.conf"), &https, Access::All)?;
            }
        }
        Ok(())
    }

    fn settings(&self) -> String {
        let (name, hub) = (self.name, &self.plan.name);
        let own = match self.kind {
            Kind::Site => format!(
                "# Site {name} of the federation {hub}. Every setting is in deploy/settings/site.toml.\n\
                 site = {name:?}\n\
                 # The folder that all workers of this site share.\n\
                 root = \"/srv/rounds/{name}\"\n\
                 devices = [\"cpu\"]\n"
            ),
            Kind::Orchestrator => format!(
                "# An orchestrator of the federation {hub}. Every setting is in deploy/settings/orchestrator.toml.\n\
                 root = \"/srv/rounds/orchestrator\"\n"
            ),
            Kind::Submitter | Kind::Admin => format!(
                "# Submitter {name} of the federation {hub}: `rounds submit --submitter submitter.toml job.json`.\n"
            ),
        };
        let mut text = format!(
            "{own}# Who belongs to the federation. A new one comes from the hub when its members change.\n\
             roster = \"roster.json\"\n{}",
            self.connection()
        );
        if self.kind == Kind::Site {
            text += &format!(
                "# Through this site's own nats-server (nats-leaf.conf, nats-leaf-https.conf) instead:\n\
                 # url = \"nats://127.0.0.1:4222\", and neither ca, certificate nor tls_first.\n\n\
                 [[datasets]]\n\
                 # The name that jobs use, unique in the federation, and the nnU-Net raw data set.\n\
                 id = {name:?}\n\
                 path = \"/data/nnUNet_raw/Dataset001_{name}\"\n"
            );
        }
        text
    }

    /// How a member of this kind reaches the hub.
    fn connection(&self) -> String {
        let kind = self.kind.as_str();
        let urls: Vec<String> = self
            .plan
            .hosts
            .iter()
            .map(|host| format!("tls://{}", address(host, self.plan.port)))
            .collect();
        let mut text = format!(
            "\n[nats]\n\
             url = {:?}\n\
             tls_first = true\n\
             ca = \"ca.pem\"\n\
             certificate = [\"{kind}.pem\", \"{kind}.key\"]\n\
             # The seed of this member's key: it proves who connects, and signs.\n\
             nkey = \"{kind}.nk\"\n",
            urls.join(",")
        );
        if self.kind != Kind::Orchestrator {
            text += &format!("api_prefix = {API_PREFIX:?}\n");
        }
        text
    }

    /// A nats-server at the site, which dials out and takes connections from this machine only.
    fn leaf(&self) -> String {
        let urls: Vec<String> = self
            .plan
            .hosts
            .iter()
            .map(|host| format!("tls://{}", address(host, self.plan.leaf_port)))
            .collect();
        self.leaf_by(
            "nats-leaf.conf",
            &urls,
            "    tls { ca_file: \"ca.pem\", cert_file: \"site.pem\", key_file: \"site.key\", timeout: 5, \
             handshake_first: true }\n",
        )
    }

    /// The same, where only HTTPS leads out; none where the hub does not listen for it.
    fn leaf_https(&self) -> Option<String> {
        let port = self.plan.websocket_port?;
        let dialled: Vec<String> = match &self.plan.ingress {
            Some(ingress) => vec![ingress.clone()],
            None => self.plan.hosts.iter().map(|host| address(host, port)).collect(),
        };
        let urls: Vec<String> = dialled.iter().map(|host| format!("wss://{host}")).collect();
        let tls = match self.plan.ingress {
            Some(_) => {
                "    # The authority that signed the ingress's certificate, or the hospital's own that stands between,\n    \
                 # where this machine does not know it anyway:\n    # tls { ca_file: \"authority.pem\" }\n"
            }
            None => {
                "    tls { ca_file: \"ca.pem\", cert_file: \"site.pem\", key_file: \"site.key\", timeout: 5 }\n"
            }
        };
        let proxy = "    # Through the hospital's proxy:\n    \
                     # proxy: { url: \"http://proxy:3128\", username: \"USER\", password: $PROXY_PASSWORD }\n";
        Some(self.leaf_by("nats-leaf-https.conf", &urls, &format!("{tls}{proxy}")))
    }

    fn leaf_by(&self, file: &str, urls: &[String], how: &str) -> String {
        let Self { plan, name, key, .. } = self;
        format!(
            "# The nats-server of site {name}: it dials out to the hub, and listens on this machine only. Start it in\n\
             # this folder: ROUNDS_SEED=$(cat site.nk) nats-server -c {file}\n\
             server_name: {:?}\n\
             listen: \"127.0.0.1:4222\"\n\
             max_payload: 8388608\n\
             accounts {{\n  SITE {{ users: [ {{ nkey: {key:?} }} ] }}\n}}\n\
             leafnodes {{\n  remotes: [ {{\n    urls: {urls:?}\n    account: SITE\n    nkey: $ROUNDS_SEED\n{how}  }} ]\n}}\n",
            format!("{}-{name}", plan.name),
        )
    }
}

/// `host:port`; an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
