//! What a site tells of itself. Its workers share one folder: progress, momentum and preprocessed cases lie there, and
//! nowhere else.

use schemas::{
    names,
    site::{Announce, SiteFolder},
};

use crate::{
    Error,
    connection::Connection,
    direct,
    publish::{self, Created},
    streams, subjects,
};

/// Says which folder the workers of a site share, or finds that it is this one. With `moved` it is this one from
/// now on.
///
/// # Errors
/// [`Error::OtherFolder`]: another worker of the site has another folder.
pub async fn share(connection: &Connection, folder: &SiteFolder, moved: bool) -> Result<(), Error> {
    names::check_site("site", &folder.site)?;
    let subject = subjects::folder(&folder.site);
    let said = publish::encode(folder);
    if moved {
        publish::replace(connection, &subject, said).await?;
        return Ok(());
    }
    if publish::create(connection, &subject, said).await? == Created::New {
        return Ok(());
    }
    let standing = direct::last(connection, streams::SITES, &subject).await?;
    let standing = standing.ok_or_else(|| Error::request(format!("read {subject}"), "it is gone"))?;
    let standing: SiteFolder = schemas::parse(&standing)?;
    if standing == *folder {
        return Ok(());
    }
    Err(Error::OtherFolder {
        site: folder.site.clone(),
        shared: standing.mark,
        mark: folder.mark.clone(),
    })
}

/// Tells the federation of a site: its data sets, devices and version. The last word stands.
pub async fn announce(connection: &Connection, announce: &Announce) -> Result<(), Error> {
    names::check_site("site", &announce.site)?;
    let subject = subjects::announce(&announce.site);
    publish::replace(connection, &subject, publish::encode(announce)).await?;
    Ok(())
}
