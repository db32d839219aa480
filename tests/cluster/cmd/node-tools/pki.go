package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Certificates outlive every test; a cluster kept on disk must start again after a year as well.
const certificateLifetime = 10 * 365 * 24 * time.Hour

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

type leaf struct {
	name          string // of the two files, NAME.crt and NAME.key
	commonName    string
	organizations []string
	hosts         []string // host names and addresses; a server certificate when there are any, a client's otherwise
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der, 0o600)
}

func newCertificate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		// Tests move the clock; a certificate from the future would then be the failure they see.
		NotBefore:             now.Add(-48 * time.Hour),
		NotAfter:              now.Add(certificateLifetime),
		BasicConstraintsValid: true,
	}, nil
}

func makeAuthority(directory, name, commonName string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newCertificate(pkix.Name{CommonName: commonName})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(directory, name+".crt"), "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return &authority{certificate, key}, writeKey(filepath.Join(directory, name+".key"), key)
}

func (a *authority) issue(directory string, wanted leaf) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newCertificate(pkix.Name{CommonName: wanted.commonName, Organization: wanted.organizations})
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, host := range wanted.hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if address := net.ParseIP(host); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(directory, wanted.name+".crt"), "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(directory, wanted.name+".key"), key)
}

// makeServiceAccountKey writes the pair the API server signs and checks service account tokens with.
func makeServiceAccountKey(directory string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(directory, "service-account.pub"), "PUBLIC KEY", public, 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(directory, "service-account.key"), key)
}

func makePKI(directory, node string, addresses []string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	ca, err := makeAuthority(directory, "ca", "azaion-test-ca")
	if err != nil {
		return err
	}
	frontProxy, err := makeAuthority(directory, "front-proxy-ca", "azaion-test-front-proxy-ca")
	if err != nil {
		return err
	}
	apiHosts := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", node,
	}, addresses...)
	leaves := []leaf{
		{name: "apiserver", commonName: "kube-apiserver", hosts: apiHosts},
		{name: "kubelet-serving", commonName: "system:node:" + node, organizations: []string{"system:nodes"},
			hosts: append([]string{node, "localhost", "127.0.0.1"}, addresses...)},
		{name: "admin", commonName: "azaion-test-admin", organizations: []string{"system:masters"}},
		{name: "apiserver-kubelet", commonName: "kube-apiserver", organizations: []string{"system:masters"}},
		{name: "node", commonName: "system:node:" + node, organizations: []string{"system:nodes"}},
		{name: "kube-controller-manager", commonName: "system:kube-controller-manager"},
		{name: "kube-scheduler", commonName: "system:kube-scheduler"},
		{name: "kube-proxy", commonName: "system:kube-proxy"},
		{name: "coredns", commonName: "system:coredns"},
		{name: "local-path-provisioner", commonName: "system:local-path-provisioner"},
	}
	for _, wanted := range leaves {
		if err := ca.issue(directory, wanted); err != nil {
			return fmt.Errorf("%s: %w", wanted.name, err)
		}
	}
	if err := frontProxy.issue(directory, leaf{name: "front-proxy", commonName: "front-proxy"}); err != nil {
		return fmt.Errorf("front-proxy: %w", err)
	}
	return makeServiceAccountKey(directory)
}

// runPKI writes every certificate and key of a cluster into one directory.
func runPKI() {
	flags := flag.NewFlagSet("pki", flag.ExitOnError)
	directory := flags.String("dir", "", "directory to write to")
	node := flags.String("node", "", "name of the node")
	addresses := flags.String("addresses", "", "addresses of the node and of the API server's Service, separated by commas")
	_ = flags.Parse(os.Args[1:]) // ExitOnError: it never returns one
	if err := makePKI(*directory, *node, strings.Split(*addresses, ",")); err != nil {
		fmt.Fprintf(os.Stderr, "pki: cannot write the cluster's certificates to %s: %v\n", *directory, err)
		os.Exit(1)
	}
}
