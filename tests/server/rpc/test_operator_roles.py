"""The least role of an operator for each RPC, written down, so that a change of one is a change here."""

from __future__ import annotations

import pytest
from dcp.v1 import options_pb2

from tests.server.rpc.methods import METHODS, rule

ROLES: dict[int, set[str]] = {
    options_pb2.OPERATOR_ROLE_SUPPORT: {
        "AdminService.GetDashboard",
        "AdminService.ListAuditEntries",
        "AdminService.ListDiscards",
        "AdminService.ListWithdrawals",
        "ArtifactService.DownloadArtifact",
        "ArtifactService.ListArtifacts",
        "DisputeService.GetDispute",
        "DisputeService.ListDisputes",
        "IncidentService.GetOperatorWebhook",
        "IncidentService.ListIncidents",
        "IncidentService.ListOperatorWebhookDeliveries",
        "JobService.ExplainJob",
        "JobService.GetJob",
        "JobService.GetJobLogs",
        "JobService.GetJobOutput",
        "JobService.WatchJob",
        "LedgerService.ProveLedger",
        "LogInService.LogOut",
        "MetricService.GetProviderMetrics",
        "OperationService.ListJobs",
        "OperationService.ListProviders",
        "OperationService.ListRates",
        "OperationService.ListRenters",
        "OperatorService.AddPasskey",
        "OperatorService.BeginPasskey",
        "OperatorService.CreateOperatorKey",
        "OperatorService.GetOwnOperator",
        "OperatorService.ListOperatorKeys",
        "OperatorService.ListPasskeys",
        "OperatorService.LogInOperator",
        "OperatorService.RemovePasskey",
        "OperatorService.RevokeOperatorKey",
        "OversightService.GetHealth",
        "OversightService.GetPayoutEvidence",
        "OversightService.GetProviderAccount",
        "OversightService.GetRenterAccount",
        "OversightService.ListMoneyByDay",
        "OversightService.ListProviderKeys",
        "OversightService.ListProviderLedger",
        "OversightService.ListRenterKeys",
        "OversightService.ListRenterLedger",
    },
    options_pb2.OPERATOR_ROLE_FINANCE: {
        "DisputeService.DecideDispute",
        "LedgerService.CreditRenter",
        "OperationService.ChangeRate",
        "PriceService.SetPrice",
        "PriceService.SetStoragePrice",
        "WithdrawalService.GetWithdrawal",
        "WithdrawalService.PayWithdrawal",
        "WithdrawalService.ProcessWithdrawal",
        "WithdrawalService.RejectWithdrawal",
    },
    options_pb2.OPERATOR_ROLE_ADMIN: {
        "AccountService.ApproveProvider",
        "AccountService.SuspendProvider",
        "AccountService.SuspendRenter",
        "AccountService.UnsuspendProvider",
        "AccountService.UnsuspendRenter",
        "AccountService.VouchForProvider",
        "IncidentService.RemoveOperatorWebhook",
        "IncidentService.RotateOperatorWebhookSecret",
        "IncidentService.SetOperatorWebhook",
        "IncidentService.TestOperatorWebhook",
        "JobService.CancelJob",
        "OperationService.RequeueJob",
        "OperatorService.InviteOperator",
        "OperatorService.InviteOperatorAgain",
        "OperatorService.ListOperators",
        "OperatorService.RemoveOperator",
        "OperatorService.SetOperatorRole",
        "RecoveryService.RecoverProviderKey",
        "RecoveryService.RecoverRenterKey",
    },
}


@pytest.mark.parametrize("role", options_pb2.OperatorRole.values())
def test_each_rpc_of_operators_names_its_least_role(role: int) -> None:
    of_operators = {name for name, method in METHODS.items() if options_pb2.ROLE_ADMIN in rule(method).roles}
    found = {name for name in of_operators if rule(METHODS[name]).operator_role == role}
    assert found == ROLES.get(role, set())


def test_no_other_rpc_names_a_role_of_operators() -> None:
    named = {name for name, method in METHODS.items() if rule(method).operator_role}
    assert named == set().union(*ROLES.values())
