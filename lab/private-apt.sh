# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# An apt state of our own for another suite of Debian, with the host's mirror and
# keyring: changes nothing in the host's configuration, installs nothing.
# Sourced by the fetch scripts of labs, models and kernels, which provide die().

# The host's first Debian mirror, from either format of sources.
debian_mirror()
{
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 2>/dev/null |
		awk '$2 == "Debian" && $1 !~ /security/ && !n++ { print $1 }'
}

debian_keyring()
{
	local ring

	for ring in /usr/share/keyrings/debian-archive-keyring.gpg \
		/usr/share/keyrings/debian-archive-keyring.pgp; do
		[ ! -r "$ring" ] || { echo "$ring"; return; }
	done
	die "no Debian keyring: install debian-archive-keyring"
}

# setup_private_apt STATE SUITE: private_apt works after it, on SUITE only.  The Release file
# of a suite under development may be past its Valid-Until on a mirror that lags; its
# signature is checked all the same.
setup_private_apt()
{
	local uri ring type

	private_options=(-o "Dir::State=$1" -o "Dir::State::lists=$1/lists"
		-o "Dir::State::status=$1/status" -o "Dir::Cache=$1/cache"
		-o "Dir::Etc::sourcelist=$1/sources.list"
		-o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
		-o Acquire::Languages=none -o APT::Sandbox::User=root)
	case $2 in
	forky | sid) private_options+=(-o Acquire::Check-Valid-Until=false) ;;
	esac
	uri=$(debian_mirror)
	[ -n "$uri" ] || die "apt on this host knows no Debian mirror"
	ring=$(debian_keyring)
	mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
	: >"$1/status"
	for type in deb deb-src; do
		echo "$type [signed-by=$ring] $uri $2 main"
	done >"$1/sources.list"
	private_apt -o APT::Update::Error-Mode=any update ||
		die "apt-get update for $2 failed; is there a network?"
}

private_apt()
{
	apt-get -qq "${private_options[@]}" "$@"
}

# What the suite has: for questions only.
private_cache()
{
	apt-cache "${private_options[@]}" "$@"
}
