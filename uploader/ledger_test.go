package uploader_test

import (
	"testing"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
)

func TestMemoryLedger(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(*testing.T) (uploader.Ledger, func() uploader.Ledger) {
		return new(uploader.MemoryLedger), nil
	})
}
