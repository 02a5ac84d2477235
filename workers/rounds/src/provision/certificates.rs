//! The federation's own certificate authority, and the certificates it signs. TLS alone lets nobody in: who connects is
//! known by its nkey.

use std::path::Path;

use anyhow::{Context, anyhow};
use pipeline::clock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::files::{Access, read, write};

/// Days that the authority's own certificate is good for.
const AUTHORITY_DAYS: u64 = 3_650;
/// Days that a member's certificate is good for.
const MEMBER_DAYS: u64 = 730;
/// Clocks may differ by as many days.
const SKEW_DAYS: u64 = 2;

/// The authority, whose key stays in the hub's folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes one for a federation, in `folder`: `ca.pem` and `ca.key`.
    pub fn create(folder: &Path, federation: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let params = authority(federation)?;
        let certificate = params.self_signed(&key)?.pem();
        write(&folder.join("ca.key"), &key.serialize_pem(), Access::Owner)?;
        write(&folder.join("ca.pem"), &certificate, Access::All)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Opens the one that lies in `folder`.
    pub fn open(folder: &Path, federation: &str) -> anyhow::Result<Self> {
        let file = folder.join("ca.key");
        let key = KeyPair::from_pem(&read(&file)?)
            .map_err(|error| anyhow!("{}: expected a private key in PEM: {error}", file.display()))?;
        Ok(Self {
            issuer: Issuer::new(authority(federation)?, key),
            certificate: read(&folder.join("ca.pem"))?,
        })
    }

    /// Its certificate, by which members know each other.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a member that dials in.
    pub fn member(&self, name: &str) -> anyhow::Result<Certified> {
        self.sign(name, Vec::new(), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A certificate for the hub's server, which is dialled under `hosts`.
    pub fn server(&self, hosts: &[String]) -> anyhow::Result<Certified> {
        let name = hosts.first().context("host: expected at least one")?;
        self.sign(name, hosts.to_vec(), &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn sign(
        &self,
        name: &str,
        hosts: Vec<String>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> anyhow::Result<Certified> {
        let mut params = CertificateParams::new(hosts).context("host")?;
        validity(&mut params, MEMBER_DAYS)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        Ok(Certified {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The same for the same federation, so that a key in a file is all there is to keep.
fn authority(federation: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    validity(&mut params, AUTHORITY_DAYS)?;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{federation} federation"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn validity(params: &mut CertificateParams, days: u64) -> anyhow::Result<()> {
    let today = clock::unix() as u64 / 86_400;
    let date = |day: u64| -> anyhow::Result<_> {
        let text = clock::rfc3339(day * 86_400);
        let part = |range: std::ops::Range<usize>| -> anyhow::Result<i32> {
            Ok(text.get(range).context("a date out of range")?.parse()?)
        };
        let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
        Ok(rcgen::date_time_ymd(
            year,
            u8::try_from(month)?,
            u8::try_from(day)?,
        ))
    };
    params.not_before = date(today.saturating_sub(SKEW_DAYS))?;
    params.not_after = date(today + days)?;
    Ok(())
}

/// When the certificate in a file ends, in seconds since 1970.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn end_of(file: &Path) -> anyhow::Result<i64> {
    let text = read(file)?;
    let expected = || format!("{}: expected a certificate in PEM", file.display());
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).with_context(expected)?;
    let certificate = pem.parse_x509().with_context(expected)?;
    Ok(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_opened_again_signs_for_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        let made = Authority::create(folder.path(), "brain").unwrap();
        let opened = Authority::open(folder.path(), "brain").unwrap();
        assert_eq!(made.certificate(), opened.certificate());
        let signed = opened.member("a").unwrap();
        let file = folder.path().join("a.pem");
        write(&file, &signed.certificate, Access::All).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.certificate.as_bytes()).unwrap();
        let (_, of_authority) = x509_parser::pem::parse_x509_pem(opened.certificate().as_bytes()).unwrap();
        let (signed, of_authority) = (pem.parse_x509().unwrap(), of_authority.parse_x509().unwrap());
        assert_eq!(signed.issuer(), of_authority.subject());
        let days = (end_of(&file).unwrap() - clock::unix() as i64) / 86_400;
        assert!((700..=730).contains(&days), "{days}");
        std::fs::write(&file, "none").unwrap();
        let error = end_of(&file).unwrap_err().to_string();
        assert!(
            error.contains("a.pem") && error.contains("certificate"),
            "{error}"
        );
    }
}
