#!/bin/sh
# Keys and certificates for Linewatch with openssl, in the folder it is run in. Keep that folder off the gateways.
#
#   keys.sh authority                      once: ca.key, ca.pem, and an empty list of what is revoked, crl.pem
#   keys.sh server NAME [NAME|ADDRESS...]  the broker's: server.key, server.pem, for all names it is reached by
#   keys.sh client NAME                    NAME.key, NAME.pem. NAME: site/gateway, or a plain one such as sink, operator
#   keys.sh revoke NAME                    NAME.pem lets nobody in any more, once the broker has the new crl.pem
#
# Certificates last DAYS (default 825), the authority ten years. Making one anew for a name renews it.
set -eu
umask 077
days=${DAYS:-825}

fail() { echo "keys.sh: $1" >&2; exit 1; }

config() { # $1: what else stands in the extensions of a certificate
    cat <<EOF
[ca]
default_ca = linewatch
[linewatch]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = issued
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = $days
default_crl_days = 3650
unique_subject = no
policy = name
[name]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
$1
[req]
distinguished_name = dn
prompt = no
[dn]
commonName = $cn
EOF
}

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

issue() { # $1: file's name without suffix, $2: extensions; signs for $cn
    [ -f ca.key ] || fail "there is no authority in $PWD: keys.sh authority"
    config "$2" >openssl.cnf
    new_key "$1.key.new"
    openssl req -new -config openssl.cnf -key "$1.key.new" -out "$1.csr"
    openssl ca -batch -notext -config openssl.cnf -extensions leaf -in "$1.csr" -out "$1.pem.new" 2>issue.log ||
        fail "$(cat issue.log)"
    mv "$1.key.new" "$1.key"
    mv "$1.pem.new" "$1.pem"
    chmod 644 "$1.pem"
    rm -f "$1.csr" openssl.cnf issue.log
    echo "$1.key $1.pem"
}

list_revoked() {
    cn=none
    config "" >openssl.cnf
    openssl ca -gencrl -config openssl.cnf -out crl.pem 2>issue.log || fail "$(cat issue.log)"
    chmod 644 crl.pem
    rm -f openssl.cnf issue.log
}

file_of() { # a client's name as a file's
    case $1 in
    */*/* | */ | /* | "") fail "$1 is neither site/gateway nor a plain name" ;;
    esac
    case $1 in
    *[!A-Za-z0-9._/-]*) fail "$1: use letters, digits, '.', '_' and '-'" ;;
    esac
    [ "${#1}" -le 64 ] || fail "$1 is longer than the 64 characters of a common name"
    echo "$1" | tr / @
}

case ${1:-} in
authority)
    [ ! -e ca.key ] || fail "there is an authority in $PWD already"
    mkdir -p issued
    : >index.txt
    openssl rand -hex 16 >serial
    echo 01 >crlnumber
    cn="Linewatch authority"
    config "" >openssl.cnf
    new_key ca.key
    openssl req -new -x509 -config openssl.cnf -extensions authority -key ca.key -days 3650 -out ca.pem
    chmod 644 ca.pem
    list_revoked
    echo "ca.key ca.pem crl.pem"
    ;;
server)
    [ $# -ge 2 ] || fail "server needs the name that the broker is reached by"
    shift
    cn=$1
    names=
    for name in "$@"; do
        case $name in
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) kind=IP ;;
        *) kind=DNS ;;
        esac
        names=$names,$kind:$name
    done
    issue server "subjectAltName = ${names#,}
extendedKeyUsage = serverAuth"
    ;;
client)
    [ $# -eq 2 ] || fail "client needs one name"
    file=$(file_of "$2")
    cn=$2
    issue "$file" "extendedKeyUsage = clientAuth"
    ;;
revoke)
    [ $# -eq 2 ] || fail "revoke needs one name"
    file=$(file_of "$2")
    [ -f "$file.pem" ] || fail "there is no $file.pem in $PWD"
    cn=none
    config "" >openssl.cnf
    openssl ca -config openssl.cnf -revoke "$file.pem" 2>issue.log || fail "$(cat issue.log)"
    list_revoked
    echo "crl.pem"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'
    exit 2
    ;;
esac
