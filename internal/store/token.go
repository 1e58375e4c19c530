package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// mintToken makes an HS256 JWT with the same claims as the original service. A
// random claim in addition keeps anyone from recreating the token from what is
// stored.
func mintToken(salt []byte, issuer, name string, issuedMilli int64) (string, error) {
	claims, err := json.Marshal(struct {
		Sub  string `json:"sub"`
		Iss  string `json:"iss"`
		Iat  int64  `json:"iat"`
		Name string `json:"name"`
		Jti  string `json:"jti"`
	}{issuer, "nft-storage", issuedMilli, name, rand.Text()})
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		base64.RawURLEncoding.EncodeToString(claims)
	return head + "." + sign(salt, head), nil
}

func sign(salt []byte, head string) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(head))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// verifyToken checks the signature and returns the subject. It ignores the
// algorithm named in the header, since there is only one.
func verifyToken(salt []byte, token string) (subject string, ok bool) {
	last := strings.LastIndexByte(token, '.')
	if strings.Count(token, ".") != 2 {
		return "", false
	}
	head, signature := token[:last], token[last+1:]
	if subtle.ConstantTimeCompare([]byte(signature), []byte(sign(salt, head))) != 1 {
		return "", false
	}
	_, payload, _ := strings.Cut(head, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", false
	}
	var claims struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", false
	}
	return claims.Sub, true
}
